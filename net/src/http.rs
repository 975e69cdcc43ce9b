//! The pages of an operations port: metrics and probes, by GET, over HTTP/1.1.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder as _, Registry, TextEncoder};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const CONNECTIONS_MAX: usize = 64;
const HEADER_TIME_MAX: Duration = Duration::from_secs(10);
const CONNECTION_TIME_MAX: Duration = Duration::from_mins(5);

/// What is shown of a process.
pub trait Pages: Send + Sync + 'static {
    /// Gathered anew for `/metrics`.
    fn registry(&self) -> &Registry;

    /// Brings gauges up to date before they are gathered.
    fn refresh(&self);

    /// `/readyz`: an error says what is waited for.
    fn ready(&self) -> Result<(), String>;
}

/// Serves `/metrics`, `/livez` and `/readyz` until `stop`.
pub async fn serve<P: Pages>(listener: TcpListener, pages: Arc<P>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
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
                _ = timeout(CONNECTION_TIME_MAX, connection(stream, pages)) => {}
                () = stop.cancelled() => {}
            }
            drop(place);
        });
    }
}

async fn connection<P: Pages>(stream: TcpStream, pages: Arc<P>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request.method(), request.uri().path(), pages.as_ref());
        async move { Ok::<_, Infallible>(answer) }
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

fn answer(method: &Method, path: &str, pages: &impl Pages) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        return page(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
    }
    match path {
        "/livez" => page(StatusCode::OK, "ok\n".into()),
        "/readyz" => match pages.ready() {
            Ok(()) => page(StatusCode::OK, "ok\n".into()),
            Err(reason) => page(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        },
        "/metrics" => {
            pages.refresh();
            let mut text = Vec::new();
            match TextEncoder::new().encode(&pages.registry().gather(), &mut text) {
                Ok(()) => page(StatusCode::OK, String::from_utf8_lossy(&text).into_owned()),
                Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            }
        }
        _ => page(
            StatusCode::NOT_FOUND,
            "/metrics, /livez or /readyz\n".into(),
        ),
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
