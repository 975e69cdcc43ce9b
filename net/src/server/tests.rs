//! A real server on loopback against clients that behave and clients that do not.

use super::*;
use crate::Connection;
use protocol::header::Empty;
use protocol::{RequestCode, ResponseCode};

/// Answers every request with its own body; `SuspendConsumer` is never answered, and
/// `ResumeConsumer` is answered with a megabyte.
struct Echo {
    closed: AtomicUsize,
}

impl Handler for Echo {
    fn handle(self: &Arc<Self>, request: Frame, peer: &Arc<Peer>) {
        let answer = request.answer(ResponseCode::Success);
        match RequestCode::from_number(request.code) {
            Some(RequestCode::SuspendConsumer) => {}
            Some(RequestCode::ResumeConsumer) => {
                peer.send(&answer.with_body(vec![7; 1024 * 1024]));
            }
            _ => peer.send(&answer.with_body(request.body)),
        }
    }

    fn closed(self: &Arc<Self>, _: &Peer) {
        self.closed.fetch_add(1, Ordering::Relaxed);
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
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let echo = Arc::new(Echo {
        closed: AtomicUsize::new(0),
    });
    let (counts, stop) = (Arc::<Counts>::default(), CancellationToken::new());
    let server = serve(
        listener,
        Arc::clone(&echo),
        limits,
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
    let running = start(limits).await;
    let mut stream = TcpStream::connect(running.address).await.expect("connect");
    let mut request = BytesMut::new();
    frame::encode(
        &Frame::request(RequestCode::ResumeConsumer, &Empty),
        &mut request,
    );
    let asked = timeout(SECOND * 10, async {
        while stream.write_all(&request).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    assert!(asked.await.is_ok(), "the server never closed");
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
