//! TLS 1.3 for TCP connections, following libp2p's specification (`/tls/1.0.0`), with AES first where the processor has it.
//!
//! Transport encryption is the largest share of a transfer's cost. libp2p-tls offers ChaCha20-Poly1305 first and has no
//! setting; with AES-128-GCM first the same bytes cost 60 % (ADR 0008). Certificates, their check and the peer id in them
//! are libp2p-tls's own; only the choice of cipher suites is ours, so both ends interoperate with the stock upgrade:
//! `tests::speaks_with_the_stock_upgrade`. No session secrets are ever logged, whatever the environment says.

use std::{net::Ipv4Addr, sync::Arc};

use cairn_core::gcm::has_wide_aes;
use futures::{
    AsyncRead, AsyncWrite, FutureExt as _,
    future::{BoxFuture, Either},
};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::{
    PeerId,
    core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
    identity::Keypair,
    noise,
};
use libp2p_tls::certificate;
use rustls::{
    CipherSuite, DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{
    gather::{GATHER_MAX, Gather},
    scoop::Scoop,
};

/// The protocol's name in negotiation.
const PROTOCOL: &str = "/tls/1.0.0";
/// ALPN of libp2p over TLS.
const ALPN: &[u8] = b"libp2p";

/// Encrypted bytes that wait for the socket at most: what [`Gather`] hands over is encrypted and written in one go, in four
/// records with 22 bytes each of head, type and tag.
const RECORDS_MAX: usize = GATHER_MAX + GATHER_MAX.div_ceil(16 << 10) * 22;

/// Why a connection was not secured.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    /// Our own certificate could not be made.
    #[error("no certificate could be made: {0}")]
    Certificate(#[from] certificate::GenError),
    /// rustls refused our settings.
    #[error("the TLS settings were refused: {0}")]
    Settings(#[from] rustls::Error),
    /// The handshake failed.
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[from] std::io::Error),
    /// The other end's certificate is not a libp2p one.
    #[error("the other end's certificate: {0}")]
    Theirs(#[from] certificate::ParseError),
    /// The other end sent no certificate, or several.
    #[error("the other end did not send exactly one certificate")]
    NotOne,
}

/// The upgrade; one for all connections of a node.
#[derive(Clone)]
pub(super) struct Tls {
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
}

impl Tls {
    /// With a fresh certificate for this identity.
    pub(super) fn new(identity: &Keypair) -> Result<Self, TlsError> {
        Self::with(identity, provider(has_aes(), has_wide_aes()))
    }

    fn with(identity: &Keypair, provider: CryptoProvider) -> Result<Self, TlsError> {
        let provider = Arc::new(provider);
        let versions = &[&rustls::version::TLS13];
        let (certificate, key) = certificate::generate(identity)?;
        let key = ring::sign::any_ecdsa_type(&key)?;
        let own = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key)));
        let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(Arc::new(Libp2pCertificates))
            .with_cert_resolver(own.clone());
        server.alpn_protocols = vec![ALPN.to_vec()];
        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Libp2pCertificates))
            .with_client_cert_resolver(own);
        client.alpn_protocols = vec![ALPN.to_vec()];
        // Each connection is authenticated anew: nothing is kept of one for the next.
        client.resumption = rustls::client::Resumption::disabled();
        server.send_tls13_tickets = 0;
        Ok(Self { server: server.into(), client: client.into() })
    }
}

/// Whether AES runs in hardware here; without, ChaCha20 is several times faster.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

/// TLS 1.3 suites only. The dialer's order decides. AES-128 rather than 256: what travels is sealed under AES-256 already, and
/// 128 bits suffice for a connection. Where AES is `wide` AWS-LC encrypts (ADR 0025); ring does the handshakes everywhere.
fn provider(aes_first: bool, wide: bool) -> CryptoProvider {
    let mut provider = ring::default_provider();
    if wide {
        provider.cipher_suites = aws_lc_rs::ALL_CIPHER_SUITES.to_vec();
    }
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => u8::from(aes_first) * 3,
        CipherSuite::TLS13_AES_128_GCM_SHA256 => 1,
        _ => 2,
    });
    provider
}

impl UpgradeInfo for Tls {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(PROTOCOL)
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Tls {
    type Output = (PeerId, TlsStream<C>);
    type Error = TlsError;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        async move {
            let mut stream = TlsAcceptor::from(self.server).accept(socket).await?;
            stream.get_mut().1.set_buffer_limit(Some(RECORDS_MAX));
            let stream = stream.into();
            Ok((other_end(&stream)?, stream))
        }
        .boxed()
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for Tls {
    type Output = (PeerId, TlsStream<C>);
    type Error = TlsError;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        async move {
            // An address instead of a name keeps SNI out, as the specification asks.
            let name = ServerName::from(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            let mut stream = TlsConnector::from(self.client).connect(name, socket).await?;
            stream.get_mut().1.set_buffer_limit(Some(RECORDS_MAX));
            let stream = stream.into();
            Ok((other_end(&stream)?, stream))
        }
        .boxed()
    }
}

/// What a TCP connection is secured with: TLS, or Noise for those who do not speak it.
#[derive(Clone)]
pub(super) struct Security {
    tls: Tls,
    noise: noise::Config,
}

impl Security {
    /// Both, for this identity.
    pub(super) fn new(identity: &Keypair) -> Result<Self, SecurityError> {
        Ok(Self { tls: Tls::new(identity)?, noise: noise::Config::new(identity)? })
    }
}

/// Why a connection was not secured, or could not be.
#[derive(Debug, thiserror::Error)]
pub(super) enum SecurityError {
    /// By TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// By Noise.
    #[error("the Noise handshake failed: {0}")]
    Noise(#[from] noise::Error),
}

/// A secured connection: read in large pieces below, written in large pieces above.
type Secured<C> = (PeerId, Gather<Either<TlsStream<Scoop<C>>, noise::Output<Scoop<C>>>>);

impl UpgradeInfo for Security {
    type Info = &'static str;
    type InfoIter = std::iter::Chain<<Tls as UpgradeInfo>::InfoIter, <noise::Config as UpgradeInfo>::InfoIter>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.tls.protocol_info().chain(self.noise.protocol_info())
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Security {
    type Output = Secured<C>;
    type Error = SecurityError;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, socket: C, chosen: Self::Info) -> Self::Future {
        let socket = Scoop::new(socket);
        if chosen == PROTOCOL {
            self.tls.upgrade_inbound(socket, chosen).map(left).boxed()
        } else {
            self.noise.upgrade_inbound(socket, chosen).map(right).boxed()
        }
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for Security {
    type Output = Secured<C>;
    type Error = SecurityError;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, socket: C, chosen: Self::Info) -> Self::Future {
        let socket = Scoop::new(socket);
        if chosen == PROTOCOL {
            self.tls.upgrade_outbound(socket, chosen).map(left).boxed()
        } else {
            self.noise.upgrade_outbound(socket, chosen).map(right).boxed()
        }
    }
}

fn left<C>(done: Result<(PeerId, TlsStream<Scoop<C>>), TlsError>) -> Result<Secured<C>, SecurityError> {
    let (peer, stream) = done?;
    Ok((peer, Gather::new(Either::Left(stream))))
}

fn right<C>(done: Result<(PeerId, noise::Output<Scoop<C>>), noise::Error>) -> Result<Secured<C>, SecurityError> {
    let (peer, stream) = done?;
    Ok((peer, Gather::new(Either::Right(stream))))
}

fn other_end<C>(stream: &TlsStream<C>) -> Result<PeerId, TlsError> {
    match stream.get_ref().1.peer_certificates() {
        Some([one]) => Ok(certificate::parse(one)?.peer_id()),
        _ => Err(TlsError::NotOne),
    }
}

/// Takes exactly one self-signed certificate with libp2p's extension, from either end. Who the peer is, the Swarm compares
/// with whom it dialled.
#[derive(Debug)]
struct Libp2pCertificates;

impl Libp2pCertificates {
    fn check(end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        if !intermediates.is_empty() {
            return Err(rustls::Error::General("libp2p wants exactly one certificate".to_owned()));
        }
        // Validity times, the self-signature and the extension's signature are all looked at in there.
        certificate::parse(end_entity)?;
        Ok(())
    }

    fn check_signature(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        certificate::parse(certificate)?.verify_signature(signed.scheme, message, signed.signature())?;
        Ok(HandshakeSignatureValid::assertion())
    }

    /// What libp2p-tls can verify, the usual ones first.
    fn schemes() -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA256,
        ]
    }

    fn too_old() -> rustls::Error {
        rustls::Error::General("libp2p wants TLS 1.3".to_owned())
    }
}

impl ServerCertVerifier for Libp2pCertificates {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::check(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Self::too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Libp2pCertificates {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::check(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Self::too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_util::compat::TokioAsyncReadCompatExt as _;

    use super::*;

    type Pipe = tokio_util::compat::Compat<tokio::io::DuplexStream>;

    /// Both ends' results of one handshake: whom each found, and what it can send.
    async fn meet<D, L>(dialer: D, listener: L) -> ((PeerId, TlsStream<Pipe>), (PeerId, TlsStream<Pipe>))
    where
        D: OutboundConnectionUpgrade<Pipe, Output = (PeerId, TlsStream<Pipe>), Error: std::fmt::Debug>
            + UpgradeInfo<Info = &'static str>,
        L: InboundConnectionUpgrade<Pipe, Output = (PeerId, TlsStream<Pipe>), Error: std::fmt::Debug>
            + UpgradeInfo<Info = &'static str>,
    {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (out, back) = futures::join!(
            dialer.upgrade_outbound(near.compat(), PROTOCOL),
            listener.upgrade_inbound(far.compat(), PROTOCOL)
        );
        (out.expect("the dialer agrees"), back.expect("the listener agrees"))
    }

    fn suite(stream: &TlsStream<Pipe>) -> CipherSuite {
        stream.get_ref().1.negotiated_cipher_suite().expect("negotiated").suite()
    }

    #[tokio::test]
    async fn speaks_with_the_stock_upgrade() {
        let (a, b) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let stock = |keys: &Keypair| libp2p_tls::Config::new(keys).expect("a config");
        let ours = |keys: &Keypair| Tls::new(keys).expect("a config");
        for (out, back) in
            [meet(ours(&a), stock(&b)).await, meet(stock(&a), ours(&b)).await, meet(ours(&a), ours(&b)).await]
        {
            assert_eq!((out.0, back.0), (b.public().to_peer_id(), a.public().to_peer_id()));
            let (mut out, mut back) = (out.1, back.1);
            let mut read = [0; 5];
            out.write_all(b"cairn").await.expect("sent");
            out.flush().await.expect("sent");
            back.read_exact(&mut read).await.expect("received");
            assert_eq!(&read, b"cairn");
        }
    }

    #[tokio::test]
    async fn the_order_follows_the_processor() {
        let (a, b) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        for (aes_first, wide, expected) in [
            (true, false, CipherSuite::TLS13_AES_128_GCM_SHA256),
            (true, true, CipherSuite::TLS13_AES_128_GCM_SHA256),
            (false, false, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
        ] {
            let ours = Tls::with(&a, provider(aes_first, wide)).expect("a config");
            let out = meet(ours, Tls::new(&b).expect("a config")).await.0;
            assert_eq!(suite(&out.1), expected);
        }
    }

    /// The libraries of the two ends may differ, and pieces of several records pass either way.
    #[tokio::test]
    async fn either_library_understands_the_other() {
        let (a, b) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let end = |keys: &Keypair, wide| Tls::with(keys, provider(true, wide)).expect("a config");
        for (here, there) in [(false, true), (true, false), (true, true), (false, false)] {
            let ((_, mut out), (_, mut back)) = meet(end(&a, here), end(&b, there)).await;
            let said: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
            let mut heard = vec![0; said.len()];
            let speak = async {
                out.write_all(&said).await.expect("sent");
                out.flush().await.expect("sent");
            };
            futures::join!(speak, async { back.read_exact(&mut heard).await.expect("received") });
            assert!(heard == said, "{here} to {there}");
        }
    }

    /// A certificate without libp2p's extension, or bytes that are no handshake: an error at both ends, no panic.
    #[tokio::test]
    async fn strangers_are_refused() {
        let ours = Tls::new(&Keypair::generate_ed25519()).expect("a config");
        let plain = rcgen::generate_simple_self_signed(vec!["host".to_owned()]).expect("a certificate");
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(plain.key_pair.serialize_der());
        let mut client = rustls::ClientConfig::builder_with_provider(provider(true, false).into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Libp2pCertificates))
            .with_client_auth_cert(vec![plain.cert.der().clone()], key.into())
            .expect("a config");
        client.alpn_protocols = vec![ALPN.to_vec()];
        let mut stranger = ours.clone();
        stranger.client = client.into();
        let (near, far) = tokio::io::duplex(1 << 16);
        let (_, back) = futures::join!(
            stranger.upgrade_outbound(near.compat(), PROTOCOL),
            ours.clone().upgrade_inbound(far.compat(), PROTOCOL)
        );
        assert!(matches!(back, Err(TlsError::Handshake(_))), "no certificate of libp2p's");

        let (near, far) = tokio::io::duplex(1 << 16);
        let mut near = near.compat();
        near.write_all(&[0x16; 4096]).await.expect("sent");
        drop(near);
        assert!(ours.upgrade_inbound(far.compat(), PROTOCOL).await.is_err());
    }
}
