pub(crate) mod servers;

use std::os::unix::fs::PermissionsExt as _;

use super::{settings::secret, *};

fn section(kind: &str) -> FallbackSection {
    FallbackSection { name: "here".to_owned(), kind: kind.to_owned(), ..FallbackSection::default() }
}

fn folder(path: &std::path::Path) -> FallbackSection {
    FallbackSection { path: Some(path.to_owned()), ..section("folder") }
}

#[test]
fn settings_say_what_is_wrong_with_them() {
    let said = |section: FallbackSection| section.check().expect_err("wrong").to_string();
    assert_eq!(
        said(section("ftp")),
        "fallback storage \"here\" is of kind \"ftp\"; there are \"folder\", \"s3\" and \"webdav\""
    );
    assert_eq!(said(section("folder")), "fallback storage \"here\" needs `path`");
    assert!(said(FallbackSection { path: Some("a/b".into()), ..section("folder") }).contains("from the root"));
    let mixed = FallbackSection { bucket: Some("b".into()), ..folder("/x".as_ref()) };
    assert_eq!(said(mixed), "`bucket` means nothing for fallback storage \"here\", which is a folder");
    let webdav = |endpoint: &str| FallbackSection {
        endpoint: Some(endpoint.to_owned()),
        user: Some("me".to_owned()),
        password_file: Some("/p".into()),
        ..section("webdav")
    };
    assert!(said(webdav("http://nas.example/dav")).contains("in the clear"));
    assert!(said(webdav("https://me:secret@nas.example/dav")).contains("a secret does not belong"));
    assert!(!said(webdav("https://me:secret@nas.example/dav")).contains("me:secret"));
    assert!(said(webdav("nas")).contains("https://host:port"));
    for fine in ["https://nas.example/dav", "http://127.0.0.1:8080", "http://localhost/x", "http://[::1]:80/"] {
        assert_eq!(webdav(fine).check(), Ok(()), "{fine}");
    }
    let prefix = FallbackSection { prefix: Some("../x".to_owned()), ..folder("/x".as_ref()) };
    assert!(said(prefix).contains("without `.` and `..`"));
    let named = |name: &str| FallbackSection { name: name.to_owned(), ..folder("/x".as_ref()) };
    assert!(Fallbacks::new(vec![named("a b")]).is_err());
    assert!(Fallbacks::new(vec![named("a"), named("a")]).is_err());
    assert!(Fallbacks::new((0..5).map(|at| named(&format!("n{at}"))).collect()).is_err());
    assert!(Fallbacks::new((0..4).map(|at| named(&format!("n{at}"))).collect()).is_ok());
}

#[test]
fn a_secret_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("secret");
    std::fs::write(&path, " hunter2\n").expect("written");
    let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
    mode(0o600);
    assert_eq!(secret(&path).expect("read").expose(), "hunter2");
    for open in [0o640, 0o604, 0o644] {
        mode(open);
        let why = secret(&path).expect_err("refused");
        assert!(why.contains("chmod 600") && !why.contains("hunter2"), "{why}");
    }
    mode(0o600);
    std::fs::write(&path, "\n").expect("written");
    assert!(secret(&path).is_err());
    assert!(secret(&dir.path().join("none")).is_err());
}

/// What every kind of provider must do; the same for real servers in `tests/e2e`.
pub(super) async fn behaves(section: &FallbackSection) {
    let provider = Provider::open(section).expect("opens");
    assert_eq!(provider.id().await, Ok(None), "never used");
    assert_eq!(provider.introduce([7; 32]).await, Ok([7; 32]));
    assert_eq!(provider.id().await, Ok(Some([7; 32])));
    let object = |byte: u8| vec![byte; cairn_core::fallback::OBJECT_SIZE];
    assert_eq!(provider.get("aa", "bb").await, Ok(None));
    assert!(provider.list("aa").await.expect("listed").is_empty());
    provider.delete("aa", "bb").await.expect("what is not there is as good as deleted");
    provider.put("aa", "bb", object(1)).await.expect("put");
    provider.put("aa", "cc", object(2)).await.expect("put");
    provider.put("dd", "ee", object(3)).await.expect("put");
    assert_eq!(provider.get("aa", "bb").await.expect("got").as_deref(), Some(&object(1)[..]));
    let listed = provider.list("aa").await.expect("listed");
    let size = cairn_core::fallback::OBJECT_SIZE as u64;
    assert_eq!(listed, [("bb".to_owned(), size), ("cc".to_owned(), size)].into());
    provider.put("aa", "bb", object(4)).await.expect("put over");
    assert_eq!(provider.get("aa", "bb").await.expect("got").as_deref(), Some(&object(4)[..]));
    provider.delete("aa", "bb").await.expect("deleted");
    assert_eq!(provider.get("aa", "bb").await, Ok(None));
    assert_eq!(provider.list("aa").await.expect("listed").len(), 1);
    // A longer object than any is not read whole, and no object.
    let mut long = object(5);
    long.extend_from_slice(&[0; 100]);
    provider.put("aa", "ff", long).await.expect("put");
    assert_eq!(provider.get("aa", "ff").await.expect("cut").map(|bytes| bytes.len()), Some(0));
    // Another one over the same place knows it again.
    assert_eq!(Provider::open(section).expect("opens").id().await, Ok(Some([7; 32])));
}

#[tokio::test]
async fn a_folder_does_as_a_provider_should() {
    let dir = tempfile::tempdir().expect("temp dir");
    behaves(&folder(dir.path())).await;
    let deeper = FallbackSection { prefix: Some("some/where".to_owned()), ..folder(dir.path()) };
    behaves(&deeper).await;
}

#[tokio::test]
async fn a_server_that_is_away_is_given_up_after_some_requests() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = nobody.local_addr().expect("bound").port();
    drop(nobody);
    let away = FallbackSection { endpoint: Some(format!("http://127.0.0.1:{port}/dav")), ..section("webdav") };
    let provider = Provider::open(&away).expect("opens");
    for _ in 0..3 {
        assert!(matches!(provider.get("a", "b").await, Err(ProviderError::Unreachable(_))));
    }
    assert_eq!(provider.get("a", "b").await, Err(ProviderError::GivenUp));
}

#[tokio::test]
async fn a_damaged_marker_is_none() {
    let dir = tempfile::tempdir().expect("temp dir");
    std::fs::write(dir.path().join("cairn-provider"), b"short").expect("written");
    let provider = Provider::open(&folder(dir.path())).expect("opens");
    assert!(matches!(provider.id().await, Err(ProviderError::Marker(_))));
}
