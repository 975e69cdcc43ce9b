//! A real server on loopback against clients that behave and clients that do not.

use std::thread;

use bytes::Bytes;

use super::*;
use crate::{Connection, PemFiles, TlsMode, client};
use protocol::header::Empty;
use protocol::{RequestCode, ResponseCode};
use tokio::io::AsyncWriteExt;

/// Answers every request with its own body; `SuspendConsumer` is never answered,
/// `ResumeConsumer` is answered with a megabyte, and `LockBatchMq` by another thread. At
/// `UnlockBatchMq` it panics, and keeps the peer.
struct Echo {
    closed: AtomicUsize,
    /// As many references as there are answers that lie there uncopied, and one.
    megabyte: Arc<Vec<u8>>,
    kept: Mutex<Option<Arc<Peer>>>,
    /// Whose the last request was.
    seen: Mutex<Option<SocketAddr>>,
}

impl Handler for Echo {
    fn handle(self: &Arc<Self>, request: Frame, peer: &Arc<Peer>) {
        let answer = request.answer(ResponseCode::Success);
        *self.seen.lock().expect("no panic") = Some(peer.address);
        match RequestCode::from_number(request.code) {
            Some(RequestCode::SuspendConsumer) => {}
            Some(RequestCode::LockBatchMq) => {
                let peer = Arc::clone(peer);
                thread::spawn(move || crate::together(|| peer.send(&answer)));
            }
            Some(RequestCode::ResumeConsumer) => {
                let body = Bytes::from_owner(Megabyte(Arc::clone(&self.megabyte)));
                peer.send(&Frame { body, ..answer });
            }
            Some(RequestCode::UnlockBatchMq) => {
                *self.kept.lock().expect("no panic") = Some(Arc::clone(peer));
                panic!("as the test wants");
            }
            _ => peer.send(&answer.with_body(request.body)),
        }
    }

    fn closed(self: &Arc<Self>, _: &Peer) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }
}

struct Megabyte(Arc<Vec<u8>>);

impl AsRef<[u8]> for Megabyte {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

struct Running {
    address: SocketAddr,
    echo: Arc<Echo>,
    counts: Arc<Counts>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn start(limits: Limits) -> Running {
    start_with(Options {
        limits,
        tls: Tls::open(TlsMode::Permissive, None).expect("a certificate"),
        proxy_from: Vec::new(),
    })
    .await
}

async fn start_with(options: Options) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let echo = Arc::new(Echo {
        closed: AtomicUsize::new(0),
        megabyte: Arc::new(vec![7; 1024 * 1024]),
        kept: Mutex::default(),
        seen: Mutex::default(),
    });
    let (counts, stop) = (Arc::<Counts>::default(), CancellationToken::new());
    let server = serve(
        vec![listener],
        Arc::clone(&echo),
        options,
        Arc::clone(&counts),
        stop.clone(),
    );
    Running {
        address,
        echo,
        counts,
        stop,
        task: tokio::spawn(server),
    }
}

const SECOND: Duration = Duration::from_secs(1);

async fn closes(stream: &mut TcpStream) -> bool {
    let mut bytes = Vec::new();
    matches!(
        timeout(SECOND * 5, stream.read_to_end(&mut bytes)).await,
        Ok(Ok(_) | Err(_))
    )
}

#[tokio::test]
async fn frames_come_back_in_their_encoding_and_the_server_stops_in_order() {
    let running = start(Limits::default()).await;
    let address = running.address.to_string();
    let mut connection = Connection::open(&address, SECOND).await.expect("open");
    for (encoding, len) in [
        (frame::Encoding::Json, 10),
        (frame::Encoding::Binary, 4 * 1024 * 1024),
    ] {
        let mut request = Frame::request(RequestCode::HeartBeat, &Empty).with_body(vec![1; len]);
        request.encoding = encoding;
        let answer = connection
            .call(request, SECOND * 10)
            .await
            .expect("answered");
        assert_eq!((answer.encoding, answer.body.len()), (encoding, len));
    }
    running.stop.cancel();
    timeout(SECOND * 5, running.task)
        .await
        .expect("stops")
        .expect("no panic");
    assert_eq!(running.echo.closed.load(Ordering::Relaxed), 1);
    assert_eq!(running.counts.connections.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn bad_clients_are_disconnected() {
    let limits = Limits {
        idle_max: Duration::from_millis(150),
        frame_time_max: Duration::from_millis(150),
        ..Limits::default()
    };
    let running = start(limits).await;
    for (what, bytes) in [
        ("idle", &b""[..]),
        ("half a frame", &b"\0\0\0\x7f"[..]),
        ("a huge length", &b"\x7f\xff\xff\xff"[..]),
        ("HTTP", &b"GET / HTTP/1.1\r\n\r\n"[..]),
        ("an unknown encoding", &b"\0\0\0\x08\x09\0\0\x04abcd"[..]),
    ] {
        let mut stream = TcpStream::connect(running.address).await.expect("connect");
        stream.write_all(bytes).await.expect("write");
        assert!(closes(&mut stream).await, "{what}");
    }
    assert_eq!(running.counts.malformed.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_disconnected() {
    let limits = Limits {
        write_bytes_max: 4 * 1024 * 1024,
        ..Limits::default()
    };
    let unread = Limits {
        idle_max: Duration::from_millis(150),
        ..Limits::default()
    };
    // It asks for ever more, or says from time to time that it is there.
    for (limits, code) in [
        (limits, RequestCode::ResumeConsumer),
        (unread, RequestCode::SuspendConsumer),
    ] {
        let running = start(limits).await;
        for scheme in ["", "tls://"] {
            let address = format!("{scheme}{}", running.address);
            let mut stream = client::connect(&address).await.expect("connect");
            let (mut much, mut more) = (BytesMut::new(), BytesMut::new());
            for _ in 0..16 {
                let request = Frame::request(RequestCode::ResumeConsumer, &Empty);
                frame::encode(&request, &mut much);
            }
            frame::encode(&Frame::request(code, &Empty), &mut more);
            stream.write_all(&much).await.expect("written");
            let asked = timeout(SECOND * 10, async {
                while stream.write_all(&more).await.is_ok() {
                    tokio::task::yield_now().await;
                }
            });
            assert!(asked.await.is_ok(), "{code:?} {address}: it never closed");
        }
    }
}

#[tokio::test]
async fn what_waits_for_a_client_is_a_copy() {
    let running = start(Limits::default()).await;
    for scheme in ["", "tls://"] {
        let address = format!("{scheme}{}", running.address);
        let mut stream = client::connect(&address).await.expect("connect");
        let mut much = BytesMut::new();
        for _ in 0..32 {
            let request = Frame::request(RequestCode::ResumeConsumer, &Empty);
            frame::encode(&request, &mut much);
        }
        stream.write_all(&much).await.expect("written");
        let mut begun = [0; 4];
        stream.read_exact(&mut begun).await.expect("answered");
        let copied = timeout(SECOND * 10, async {
            while Arc::strong_count(&running.echo.megabyte) > 1 {
                tokio::task::yield_now().await;
            }
        });
        assert!(
            copied.await.is_ok(),
            "{address}: an answer's memory is kept"
        );
    }
}

#[tokio::test]
async fn a_handler_that_panics_ends_its_connection() {
    let running = start(Limits::default()).await;
    let mut stream = TcpStream::connect(running.address).await.expect("connect");
    let mut request = BytesMut::new();
    frame::encode(
        &Frame::request(RequestCode::UnlockBatchMq, &Empty),
        &mut request,
    );
    stream.write_all(&request).await.expect("written");
    assert!(closes(&mut stream).await);
    let kept = running.echo.kept.lock().expect("no panic").take();
    assert!(kept.is_some_and(|peer| peer.closed.is_cancelled()));
    assert_eq!(running.echo.closed.load(Ordering::Relaxed), 1);
    assert_eq!(running.counts.connections.load(Ordering::Relaxed), 0);
}

/// A client asks for much, which is answered by this thread and by others, and leaves: nothing is
/// lost or torn, and what one thread answers stays in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_the_kernel_does_not_take_at_once_come_whole() {
    const HERE: [RequestCode; 1] = [RequestCode::ResumeConsumer];
    const BOTH: [RequestCode; 2] = [RequestCode::ResumeConsumer, RequestCode::LockBatchMq];
    let running = start(Limits::default()).await;
    for scheme in ["", "tls://"] {
        for (codes, leaves_first) in [(&HERE[..], true), (&BOTH[..], false)] {
            let address = format!("{scheme}{}", running.address);
            let mut stream = client::connect(&address).await.expect("open");
            let mut sent = BytesMut::new();
            for (opaque, code) in (0..40).zip(codes.iter().cycle()) {
                let mut request = Frame::request(*code, &Empty);
                request.opaque = opaque;
                frame::encode(&request, &mut sent);
            }
            stream.write_all(&sent).await.expect("write");
            if leaves_first {
                stream.shutdown().await.expect("half closed");
            }
            let (mut received, mut answers) = (BytesMut::new(), Vec::new());
            while leaves_first || answers.len() < 40 {
                if stream.read_buf(&mut received).await.expect("read") == 0 {
                    break;
                }
                let limits = frame::Limits::default();
                while let Some(answer) = frame::decode(&mut received, &limits).expect("a frame") {
                    answers.push((answer.body.is_empty(), answer.opaque));
                }
            }
            assert!(received.is_empty(), "{address} ends within a frame");
            answers.sort_by_key(|(elsewhere, _)| *elsewhere);
            let mut in_order = answers.clone();
            in_order.sort_unstable();
            assert_eq!(answers.len(), 40, "{address}");
            let here = 40 / codes.len();
            assert_eq!(answers[..here], in_order[..here], "{address}");
        }
    }
}

#[tokio::test]
async fn connections_are_limited_in_all_and_an_address() {
    for limits in [
        Limits {
            connections_max: 2,
            ..Limits::default()
        },
        Limits {
            connections_per_address_max: 2,
            ..Limits::default()
        },
    ] {
        let running = start(limits).await;
        let address = running.address.to_string();
        let request = || Frame::request(RequestCode::HeartBeat, &Empty);
        let mut open = Vec::new();
        for _ in 0..2 {
            let mut connection = Connection::open(&address, SECOND).await.expect("open");
            connection
                .call(request(), SECOND)
                .await
                .expect("within the limit");
            open.push(connection);
        }
        let mut third = TcpStream::connect(running.address)
            .await
            .expect("the kernel accepts");
        assert!(closes(&mut third).await);
        assert_eq!(running.counts.refused.load(Ordering::Relaxed), 1);
        drop(open);
    }
}

#[tokio::test]
async fn a_call_has_a_deadline() {
    let running = start(Limits::default()).await;
    let mut connection = Connection::open(&running.address.to_string(), SECOND)
        .await
        .expect("open");
    let unanswered = Frame::request(RequestCode::SuspendConsumer, &Empty);
    let error = connection
        .call(unanswered, Duration::from_millis(50))
        .await
        .expect_err("late");
    assert_eq!(
        error.to_string(),
        format!("{} did not answer in 50ms", running.address)
    );
    let answered = Frame::request(RequestCode::HeartBeat, &Empty);
    connection
        .call(answered, SECOND)
        .await
        .expect("the connection is still of use");
}

/// What is sent before the first frame, and whether a frame behind it is answered.
async fn preamble(mode: TlsMode, from: &str, bytes: &[u8]) -> Option<SocketAddr> {
    let running = start_with(Options {
        limits: Limits {
            handshake_time_max: Duration::from_millis(300),
            ..Limits::default()
        },
        tls: Tls::open(mode, None).expect("a certificate"),
        proxy_from: vec![from.parse().expect("a network")],
    })
    .await;
    let mut stream = TcpStream::connect(running.address).await.expect("connect");
    let mut sent = BytesMut::from(bytes);
    let request = Frame::request(RequestCode::HeartBeat, &Empty);
    frame::encode(&request, &mut sent);
    stream.write_all(&sent).await.expect("write");
    let mut answer = [0; 4];
    let read = timeout(SECOND * 5, stream.read_exact(&mut answer)).await;
    let seen = *running.echo.seen.lock().expect("no panic");
    match read.expect("answered or closed") {
        Ok(_) => seen,
        Err(_) => None,
    }
}

#[tokio::test]
async fn a_proxy_is_believed_where_it_is_trusted_alone() {
    let v1 = b"PROXY TCP4 192.0.2.1 192.0.2.9 50000 10911\r\n";
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    for (from, bytes, expect) in [
        ("127.0.0.0/8", &v1[..], Some("192.0.2.1")),
        ("127.0.0.0/8", &local[..], Some("127.0.0.1")),
        ("127.0.0.0/8", b"", Some("127.0.0.1")),
        ("127.0.0.0/8", b"PROXY TCP4 nonsense\r\n", None),
        ("127.0.0.0/8", &[&v1[..], v1].concat(), None),
        ("10.0.0.0/8", b"", Some("127.0.0.1")),
        ("10.0.0.0/8", v1, None),
        ("10.0.0.0/8", local, None),
    ] {
        let found = preamble(TlsMode::Permissive, from, bytes).await;
        let expect: Option<IpAddr> = expect.map(|ip| ip.parse().expect("an address"));
        let shown = String::from_utf8_lossy(bytes);
        assert_eq!(found.map(|a| a.ip()), expect, "{from} {shown}");
    }
}

#[tokio::test]
async fn garbage_instead_of_a_handshake_is_closed() {
    let zeal = vec![0x16; 70_000];
    let stalled = [0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc];
    for (mode, bytes, served) in [
        (TlsMode::Permissive, &b""[..], true),
        (TlsMode::Disabled, b"", true),
        (TlsMode::Enforcing, b"", false),
        (TlsMode::Disabled, &stalled, false),
        (TlsMode::Permissive, &stalled, false),
        (TlsMode::Enforcing, &zeal, false),
        (TlsMode::Permissive, b"\x16\x03\x01\x00\x02garbage", false),
        (TlsMode::Permissive, &[0x15; 64], false),
    ] {
        let found = preamble(mode, "10.0.0.0/8", bytes).await;
        assert_eq!(found.is_some(), served, "{mode:?} {:x?}", bytes.first());
    }
}

#[tokio::test]
async fn clients_behind_a_proxy_have_their_own_limits() {
    let running = start_with(Options {
        limits: Limits {
            connections_per_address_max: 2,
            ..Limits::default()
        },
        tls: Tls::open(TlsMode::Disabled, None).expect("none"),
        proxy_from: vec!["127.0.0.1".parse().expect("an address")],
    })
    .await;
    let mut open = Vec::new();
    for (client, served) in [("a", true), ("a", true), ("a", false), ("b", true)] {
        let mut stream = TcpStream::connect(running.address).await.expect("connect");
        let ip = if client == "a" {
            "192.0.2.1"
        } else {
            "192.0.2.2"
        };
        let mut sent = BytesMut::from(format!("PROXY TCP4 {ip} 192.0.2.9 1 2\r\n").as_bytes());
        frame::encode(&Frame::request(RequestCode::HeartBeat, &Empty), &mut sent);
        stream.write_all(&sent).await.expect("write");
        let mut answer = [0; 4];
        let read = timeout(SECOND * 5, stream.read_exact(&mut answer)).await;
        let answered = read.expect("answered or closed").is_ok();
        assert_eq!(answered, served, "{client}");
        open.push(stream);
    }
    assert_eq!(running.counts.refused.load(Ordering::Relaxed), 1);
}

/// A certificate of one's own, behind a proxy's header, in both versions of TLS.
#[tokio::test]
async fn frames_pass_in_tls_behind_a_proxy() {
    use rustls::pki_types::pem::PemObject as _;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    let dir = tempfile::tempdir().expect("a directory");
    let files = PemFiles {
        certificate: dir.path().join("tls.crt"),
        key: dir.path().join("tls.key"),
    };
    std::fs::write(&files.certificate, pem("CERTIFICATE", made.cert.der())).expect("written");
    let key = made.signing_key.serialize_der();
    std::fs::write(&files.key, pem("PRIVATE KEY", &key)).expect("written");
    let running = start_with(Options {
        limits: Limits::default(),
        tls: Tls::open(TlsMode::Enforcing, Some(&files)).expect("the files"),
        proxy_from: vec!["127.0.0.1".parse().expect("an address")],
    })
    .await;
    let mut roots = rustls::RootCertStore::empty();
    let certificate = rustls::pki_types::CertificateDer::from_pem_file(&files.certificate);
    roots.add(certificate.expect("PEM")).expect("a root");
    for version in rustls::ALL_VERSIONS {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = TcpStream::connect(running.address).await.expect("connect");
        let header = b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n";
        stream.write_all(header).await.expect("write");
        let name = "localhost".try_into().expect("a name");
        let mut stream = connector.connect(name, stream).await.expect("a handshake");
        let mut sent = BytesMut::new();
        let body = vec![7; 1024 * 1024];
        let request = Frame::request(RequestCode::HeartBeat, &Empty).with_body(body);
        frame::encode(&request, &mut sent);
        stream.write_all(&sent).await.expect("write");
        stream.flush().await.expect("flush");
        let mut received = BytesMut::new();
        let answer = loop {
            match frame::decode(&mut received, &frame::Limits::default()).expect("a frame") {
                Some(answer) => break answer,
                None => assert!(stream.read_buf(&mut received).await.expect("read") > 0),
            }
        };
        assert_eq!(answer.body, request.body);
        let seen = running.echo.seen.lock().expect("no panic").expect("seen");
        assert_eq!(seen.to_string(), "[2001:db8::1]:1");
    }
}

#[tokio::test]
async fn our_own_client_speaks_tls_to_a_certificate_that_was_made() {
    let running = start_with(Options {
        limits: Limits::default(),
        tls: Tls::open(TlsMode::Enforcing, None).expect("a certificate"),
        proxy_from: Vec::new(),
    })
    .await;
    let address = format!("tls://{}", running.address);
    let mut connection = Connection::open(&address, SECOND * 5).await.expect("open");
    let request = Frame::request(RequestCode::HeartBeat, &Empty).with_body(vec![1; 100_000]);
    let answer = connection
        .call(request, SECOND * 5)
        .await
        .expect("answered");
    assert_eq!(answer.body.len(), 100_000);
    for wrong in ["tls://:1", "tls://no host:1"] {
        assert!(
            Connection::open(wrong, SECOND * 5).await.is_err(),
            "{wrong}"
        );
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

#[test]
fn files_that_are_no_certificate_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("tls.pem");
    let files = PemFiles {
        certificate: path.clone(),
        key: path.clone(),
    };
    for (text, expect) in [
        (None, "is no PEM file"),
        (Some("nothing"), "holds no certificate"),
        (Some("-----BEGIN CERTIFICATE-----\n!\n"), "is no PEM file"),
    ] {
        if let Some(text) = text {
            std::fs::write(&path, text).expect("written");
        }
        let error = Tls::open(TlsMode::Permissive, Some(&files)).expect_err(expect);
        let error = error.to_string();
        assert!(
            error.contains(expect) && error.contains("tls.pem"),
            "{error}"
        );
    }
}
