//! A proxy in front of the API server that counts the calls of an operator, and at one of them
//! kills it: before the call goes on, or after it was carried out and before it is answered.
//!
//! Calls for the leader's Lease are not counted: their number is a matter of time.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::process::local;

type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Where in a call the operator dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Before,
    After,
}

/// Which call is the operator's last. Between two writes nothing changes that an operator could
/// leave behind, so that its reads need not be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// From 1, of the writes.
    pub write: usize,
    pub moment: Moment,
}

#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Method and path of each.
    writes: Vec<(Method, String)>,
    fault: Option<Fault>,
    victim: Option<Pid>,
    struck: bool,
}

impl Proxy {
    /// `upstream` authenticates every call: give it the operator's own credentials.
    pub async fn start(upstream: kube::Client) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(local(0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let task = tokio::spawn(accept(listener, upstream, Arc::clone(&state)));
        Ok(Self {
            address,
            state,
            task,
        })
    }

    /// From now on this process is the operator, and dies by `fault`.
    pub fn watch(&self, victim: Option<Pid>, fault: Option<Fault>) {
        let mut state = lock(&self.state);
        state.victim = victim;
        state.fault = fault;
    }

    /// Whether the fault has struck.
    pub fn struck(&self) -> bool {
        lock(&self.state).struck
    }

    /// Method and path of all writes so far.
    pub fn writes(&self) -> Vec<(Method, String)> {
        lock(&self.state).writes.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, upstream: kube::Client, state: Arc<Mutex<State>>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let (upstream, state) = (upstream.clone(), Arc::clone(&state));
        let service = service_fn(move |request| {
            let (upstream, state) = (upstream.clone(), Arc::clone(&state));
            async move { pass(request, upstream, state).await }
        });
        connections.spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new();
            // The operator went away: that is what this is for.
            let _ = connection
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

async fn pass(
    request: Request<Incoming>,
    upstream: kube::Client,
    state: Arc<Mutex<State>>,
) -> anyhow::Result<Response<Body>> {
    let strikes = count(&state, request.method(), request.uri().path());
    if strikes == Some(Moment::Before) {
        strike(&state);
        anyhow::bail!("the operator was killed before this call");
    }
    let (mut parts, body) = request.into_parts();
    for name in ["authorization", "host", "connection"] {
        parts.headers.remove(name);
    }
    let bytes = body.collect().await?.to_bytes();
    let request = Request::from_parts(parts, kube::client::Body::from(bytes.to_vec()));
    let answer = upstream.send(request).await;
    if strikes == Some(Moment::After) {
        strike(&state);
        anyhow::bail!("the operator was killed after this call");
    }
    Ok(match answer {
        Ok(answer) => answer.map(|body| body.map_err(Into::into).boxed_unsync()),
        Err(error) => {
            let text = Full::new(Bytes::from(error.to_string()));
            let mut answer = Response::new(text.map_err(|never| match never {}).boxed_unsync());
            *answer.status_mut() = http::StatusCode::BAD_GATEWAY;
            answer
        }
    })
}

/// Counts a call; says whether the operator dies at it.
fn count(state: &Mutex<State>, method: &Method, path: &str) -> Option<Moment> {
    let mut state = lock(state);
    if method == Method::GET || path.contains("/leases") {
        return None;
    }
    state.writes.push((method.clone(), path.to_owned()));
    let fault = state.fault?;
    let is_last = state.writes.len() == fault.write && !state.struck;
    is_last.then_some(fault.moment)
}

fn strike(state: &Mutex<State>) {
    let mut state = lock(state);
    state.struck = true;
    if let Some(victim) = state.victim.take() {
        // Ended meanwhile: as good as killed.
        let _ = kill_process_group(victim, Signal::KILL);
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
