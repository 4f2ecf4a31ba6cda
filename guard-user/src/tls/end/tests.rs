use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;

use super::*;

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

fn trusting(ca: &Path, versions: &[&'static rustls::SupportedProtocolVersion]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for certificate in read_chain(ca).unwrap() {
        roots.add(certificate).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}

async fn shake(
    end: &TlsEnd,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> (io::Result<tokio_rustls::client::TlsStream<TcpStream>>, Result<Secured, Error>) {
    let (client, server) = pair().await;
    let connector = trusting(&end.ca_file().unwrap(), versions);
    let name = "localhost".try_into().unwrap();
    tokio::join!(connector.connect(name, client), end.secure(server, Duration::from_secs(20)))
}

#[tokio::test]
async fn a_client_that_trusts_the_local_ca_gets_tls13_with_the_hybrid_key_exchange() {
    let dir = tempfile::tempdir().unwrap();
    let end = TlsEnd::open(&config::Tls::default(), dir.path(), None).unwrap();
    let (client, server) = shake(&end, &[&rustls::version::TLS13]).await;
    let (client, server) = (client.unwrap(), server.unwrap());
    assert!(server.is_h2());
    let session = client.get_ref().1;
    assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let group = session.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
}

#[tokio::test]
async fn tls12_is_refused_unless_the_operator_asks_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let end = TlsEnd::open(&config::Tls::default(), dir.path(), None).unwrap();
    let (client, server) = shake(&end, &[&rustls::version::TLS12]).await;
    assert!(client.is_err() && server.is_err());

    let end = TlsEnd::open(&config::Tls { tls12: true, ..Default::default() }, dir.path(), None).unwrap();
    let (client, server) = shake(&end, &[&rustls::version::TLS12]).await;
    assert!(client.is_ok() && server.is_ok());
}

#[tokio::test]
async fn files_that_are_no_good_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let end = TlsEnd::open(&config::Tls::default(), dir.path(), None).unwrap();
    let ca = dir.path().join(CA_FILE);
    let good = std::fs::read(&ca).unwrap();
    std::fs::write(&ca, "not a certificate").unwrap();
    assert!(end.prepare(None).is_err());
    std::fs::write(&ca, good).unwrap();
    let (client, _server) = shake(&end, &[&rustls::version::TLS13]).await;
    client.unwrap();
}

#[test]
fn a_certificate_is_named_by_its_digest_once_it_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let end = TlsEnd::open(&config::Tls::default(), dir.path(), None).unwrap();
    let first = end.digest();
    let fresh = end.prepare(None).unwrap();
    let second = fresh.digest().to_owned();
    assert!(first != second && end.digest() == first && second.len() == 64);
    end.install(fresh);
    assert_eq!(end.digest(), second);
}

#[tokio::test]
async fn plain_http_is_told_apart_without_losing_a_byte() {
    let dir = tempfile::tempdir().unwrap();
    let end = TlsEnd::open(&config::Tls::default(), dir.path(), None).unwrap();
    let (mut client, server) = pair().await;
    client.write_all(b"GET").await.unwrap();
    let Ok(Secured::Plain(mut io)) = end.secure(server, Duration::from_secs(20)).await else {
        panic!("not taken for plain");
    };
    let mut seen = [0; 3];
    tokio::io::AsyncReadExt::read_exact(&mut io, &mut seen).await.unwrap();
    assert_eq!(&seen, b"GET");
}

#[tokio::test]
async fn a_silent_client_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let end = TlsEnd::open(&config::Tls::default(), dir.path(), None).unwrap();
    let (_client, server) = pair().await;
    assert!(matches!(end.secure(server, Duration::from_millis(20)).await, Err(Error::Slow)));
}

#[test]
fn operator_files_must_come_as_a_pair_and_in_pem() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.pem");
    std::fs::write(&file, "nothing").unwrap();
    let half = config::Tls { certificate: Some(file.clone()), ..Default::default() };
    assert!(matches!(TlsEnd::open(&half, dir.path(), None), Err(Error::HalfPair)));
    let pair = config::Tls { certificate: Some(file.clone()), key: Some(file), ..Default::default() };
    assert!(matches!(TlsEnd::open(&pair, dir.path(), None), Err(Error::Pem { .. })));
}
