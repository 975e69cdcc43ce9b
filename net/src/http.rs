//! The pages of an operations port: metrics and probes, by GET, over HTTP/1.1; and the level of
//! the log, which may be set from the same machine.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Registry, TextEncoder};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const CONNECTIONS_MAX: usize = 64;
const HEADER_TIME_MAX: Duration = Duration::from_secs(10);
const LOG_LEVEL_BYTES_MAX: usize = 1_024;
const CONNECTION_TIME_MAX: Duration = Duration::from_mins(5);

/// What is shown of a process.
pub trait Pages: Send + Sync + 'static {
    /// Gathered anew for `/metrics`.
    fn registry(&self) -> &Registry;

    /// Brings gauges up to date before they are gathered.
    fn refresh(&self);

    /// Series that are too many for the registry, as text.
    fn more(&self, _out: &mut String) {}

    /// `/readyz`: an error says what is waited for.
    fn ready(&self) -> Result<(), String>;
}

/// Tells what is logged, or sets it.
pub type LogLevel = Box<dyn Fn(Option<&str>) -> Result<String, String> + Send + Sync>;

/// Of the process, as the subscriber is; none in tests.
static LOG_LEVEL: OnceLock<LogLevel> = OnceLock::new();

/// Serves `/log-level` too, from now on. The first call holds.
pub fn serve_log_level(level: LogLevel) {
    let _ = LOG_LEVEL.set(level);
}

/// Serves `/metrics`, `/livez` and `/readyz` until `stop`.
pub async fn serve<P: Pages>(listener: TcpListener, pages: Arc<P>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, from)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Over the limit the connection is dropped: a probe or a scrape comes again.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let (pages, stop) = (Arc::clone(&pages), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = timeout(CONNECTION_TIME_MAX, connection(stream, from, pages)) => {}
                () = stop.cancelled() => {}
            }
            drop(place);
        });
    }
}

async fn connection<P: Pages>(stream: TcpStream, from: SocketAddr, pages: Arc<P>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(answer(request, from, pages).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an HTTP connection ended");
    }
}

async fn answer<P: Pages>(
    request: Request<Incoming>,
    from: SocketAddr,
    pages: Arc<P>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if *request.method() == Method::PUT && path == "/log-level" {
        return set_log_level(request.into_body(), from).await;
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return page(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
    }
    match path {
        "/livez" => page(StatusCode::OK, "ok\n".into()),
        "/readyz" => match pages.ready() {
            Ok(()) => page(StatusCode::OK, "ok\n".into()),
            Err(reason) => page(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        },
        // Off the async threads: there may be many series, and lag may be read from the disk.
        "/metrics" => match tokio::task::spawn_blocking(move || metrics(pages.as_ref())).await {
            Ok(text) => page(StatusCode::OK, text),
            Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        "/log-level" => log_level(None),
        _ => page(
            StatusCode::NOT_FOUND,
            "/metrics, /livez, /readyz or /log-level\n".into(),
        ),
    }
}

/// The whole page of a process's series.
pub fn metrics(pages: &impl Pages) -> String {
    pages.refresh();
    let mut text = String::new();
    if let Err(error) = TextEncoder::new().encode_utf8(&pages.registry().gather(), &mut text) {
        tracing::error!(%error, "the metrics can't be written");
    }
    pages.more(&mut text);
    text
}

/// Only from the same machine: whoever may set it can fill a disk.
async fn set_log_level(body: Incoming, from: SocketAddr) -> Response<Full<Bytes>> {
    if !is_local(from) {
        let why = "the level is set from the same machine only\n";
        return page(StatusCode::FORBIDDEN, why.into());
    }
    let body = Limited::new(body, LOG_LEVEL_BYTES_MAX).collect().await;
    let Ok(body) = body else {
        let why = format!("at most {LOG_LEVEL_BYTES_MAX} bytes\n");
        return page(StatusCode::PAYLOAD_TOO_LARGE, why);
    };
    log_level(Some(&String::from_utf8_lossy(&body.to_bytes())))
}

/// Also where a port takes IPv4 as IPv6.
fn is_local(from: SocketAddr) -> bool {
    from.ip().to_canonical().is_loopback()
}

fn log_level(wanted: Option<&str>) -> Response<Full<Bytes>> {
    let Some(level) = LOG_LEVEL.get() else {
        return page(StatusCode::NOT_FOUND, "no level can be set\n".into());
    };
    match level(wanted.map(str::trim)) {
        Ok(level) => page(StatusCode::OK, format!("{level}\n")),
        Err(reason) => page(StatusCode::BAD_REQUEST, format!("{reason}\n")),
    }
}

fn page(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let text_plain = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, text_plain);
    response
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn the_log_level_is_set_from_the_same_machine_only() {
        for (from, local) in [
            ("127.0.0.1:1", true),
            ("127.8.0.1:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("10.0.0.1:1", false),
            ("[::ffff:10.0.0.1]:1", false),
            ("[fe80::1]:1", false),
        ] {
            assert_eq!(is_local(from.parse().expect("an address")), local, "{from}");
        }
    }
}
