//! HTTP for providers: hyper over the TLS that everything else has (rustls with ring), the system's certificates.
//!
//! object_store would bring reqwest with aws-lc; all that it needs is a request in and a response out.

use std::{error::Error as _, fmt, sync::Arc, time::Duration};

use ::http::{HeaderValue, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper_util::{client::legacy, rt::TokioExecutor};
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
        HttpResponseBody, HttpService,
    },
};

use crate::ops::SecretText;

/// Until a response begins. A shard goes up in that time at 140 kbit/s.
const ANSWER: Duration = Duration::from_secs(60);
/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(10);
/// Most bytes of an answer: an object is a little over 1 MiB, a listing of a thousand less. A server may send anything.
const BODY_MAX: usize = 4 << 20;
/// Idle connections that are kept to one host: as many as requests are under way.
const IDLE: usize = 8;

type Connector = hyper_rustls::HttpsConnector<legacy::connect::HttpConnector>;

/// Makes clients, each with what it logs in with, if anything.
#[derive(Clone)]
pub(super) struct Line {
    client: legacy::Client<Connector, HttpRequestBody>,
    login: Option<HeaderValue>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Line(..)")
    }
}

impl Line {
    /// `login`: user and password.
    pub(super) fn new(secure: bool, login: Option<(&str, &SecretText)>) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
        let mut roots = rustls::RootCertStore::empty();
        if secure {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err("this machine has no certificates to check servers with (install ca-certificates)".into());
            }
        }
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let mut tcp = legacy::connect::HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_nodelay(true);
        let connector =
            hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1();
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE)
            .build(connector.wrap_connector(tcp));
        Ok(Self { client, login: login.map(basic).transpose()? })
    }
}

/// The header of HTTP's basic authentication, marked as a secret so that nobody prints it.
fn basic((user, password): (&str, &SecretText)) -> Result<HeaderValue, String> {
    use zeroize::Zeroizing;
    let plain = Zeroizing::new(format!("{user}:{}", password.expose()));
    let text = Zeroizing::new(format!("Basic {}", base64(plain.as_bytes())));
    let mut value = HeaderValue::from_str(&text).map_err(|_| "the user's name or password is no text".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let word = part.iter().enumerate().fold(0u32, |word, (at, byte)| word | u32::from(*byte) << (16 - 8 * at));
        for at in 0..4 {
            let letter = char::from(LETTERS[(word >> (18 - 6 * at)) as usize & 63]);
            out.push(if at <= part.len() { letter } else { '=' });
        }
    }
    out
}

impl HttpConnector for Line {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait::async_trait]
impl HttpService for Line {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if let Some(login) = &self.login {
            request.headers_mut().insert(header::AUTHORIZATION, login.clone());
        }
        let answer = tokio::time::timeout(ANSWER, self.client.request(request)).await;
        let answer = answer.map_err(|late| HttpError::new(HttpErrorKind::Timeout, late))?.map_err(failed)?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, BODY_MAX).map_err(|e| {
            let kind = if e.is::<LengthLimitError>() { HttpErrorKind::Decode } else { HttpErrorKind::Interrupted };
            HttpError::new_boxed(kind, e)
        });
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

fn failed(error: legacy::Error) -> HttpError {
    let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Request };
    // Its own text says no more than "client error": what is below does.
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text = e.to_string();
        cause = e.source();
    }
    HttpError::new(kind, std::io::Error::other(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_what_everybody_takes_it_for() {
        let known =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("\u{ff}", "w78=")];
        for (plain, encoded) in known {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn a_login_is_never_printed() {
        let secret = SecretText::new("hunter2".to_owned());
        let line = Line::new(false, Some(("me", &secret))).expect("made");
        let shown = format!("{line:?} {:?}", line.login);
        assert!(!shown.contains("hunter2") && !shown.contains("bWU6"), "{shown}");
    }
}
