//! Leadership: of several operators that look after the same namespaces one acts, and one that
//! has lost the Lease, or was stopped for a while and does not know it yet, writes nothing.
//!
//! The Lease is kept by `kube-lease-manager`. What it believes is not asked before a write, since
//! it may be stale; what counts is the time of its last renewal that the API server has
//! acknowledged, taken on this machine's monotonic clock before the renewal was sent. [`Renewals`]
//! takes it, [`Gate`] holds every write against it, in the last layer before the wire.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use k8s_openapi::api::coordination::v1::Lease;
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use tokio_util::sync::CancellationToken;
use tower::limit::RateLimitLayer;
use tower::{BoxError, Service};

use crate::cluster::OPERATOR;
use crate::metrics::Metrics;
use crate::{Error, Options};

/// Others may take the Lease when it was not renewed for so long.
const LEASE: Duration = Duration::from_secs(15);
/// Nothing is written when it was not renewed for so long: a write may be on its way for 3 s.
const TERM: Duration = Duration::from_secs(12);
/// It is renewed so long before.
const GRACE: Duration = Duration::from_secs(10);
const RELEASE_TIME_MAX: Duration = Duration::from_secs(3);
/// Requests to the API server in any second, but for the Lease's.
const REQUESTS_A_SECOND_MAX: u64 = 20;
/// A Lease is small.
const LEASE_BYTES_MAX: usize = 256 * 1024;
const RETRY: Duration = Duration::from_secs(2);

/// Until when this process leads.
#[derive(Debug, Default)]
pub(crate) struct Leader(Mutex<Option<Instant>>);

#[derive(Debug, thiserror::Error)]
#[error("this operator is not the leader")]
pub(crate) struct NotLeader;

impl Leader {
    pub(crate) fn leads(&self) -> bool {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    fn set(&self, until: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// A client whose writes pass only while `leader` leads, and which is never in a hurry.
pub(crate) fn gated(
    config: Config,
    leader: &Arc<Leader>,
    metrics: &Metrics,
) -> Result<Client, kube::Error> {
    let gate = tower::layer::layer_fn(|inner| Gate {
        inner,
        leader: Arc::clone(leader),
        metrics: metrics.clone(),
    });
    let pace = RateLimitLayer::new(REQUESTS_A_SECOND_MAX, Duration::from_secs(1));
    let builder = ClientBuilder::try_from(config)?;
    Ok(builder.with_layer(&gate).with_layer(&pace).build())
}

/// The Lease of the operators that look after the same namespaces.
pub(crate) async fn lease(
    config: Config,
    leader: &Arc<Leader>,
    options: &Options,
) -> Result<LeaseManager, Error> {
    let name = match options.namespace.as_str() {
        "" => OPERATOR.to_owned(),
        namespace => format!("{OPERATOR}-{namespace}"),
    };
    let renewals = tower::layer::layer_fn(|inner| Renewals {
        inner,
        leader: Arc::clone(leader),
        identity: options.identity.clone(),
    });
    let builder = ClientBuilder::try_from(config).map_err(Error::Client)?;
    LeaseManagerBuilder::new(builder.with_layer(&renewals).build(), name)
        .with_namespace(&options.lease_namespace)
        .with_identity(&options.identity)
        .with_duration(LEASE.as_secs())
        .with_grace(GRACE.as_secs())
        .build()
        .await
        .map_err(Error::Lease)
}

/// Runs `work` whenever this process leads; its token is cancelled when it no longer does. Gives
/// the Lease up at the end, so that the next one need not wait.
pub(crate) async fn while_leading<W: Future<Output = ()>>(
    manager: LeaseManager,
    leader: &Leader,
    stop: &CancellationToken,
    mut work: impl FnMut(CancellationToken) -> W,
) {
    while elected(&manager, leader, stop).await {
        tracing::info!("this operator leads");
        let term = stop.child_token();
        let kept = async {
            lost(&manager, leader, &term).await;
            term.cancel();
        };
        tokio::join!(work(term.clone()), kept);
        leader.set(None);
        tracing::info!("this operator leads no longer");
    }
    if let Ok(Err(error)) = tokio::time::timeout(RELEASE_TIME_MAX, manager.release()).await {
        tracing::warn!(%error, "the Lease was not given up");
    }
}

/// Waits for leadership; false when the process stops instead.
async fn elected(manager: &LeaseManager, leader: &Leader, stop: &CancellationToken) -> bool {
    loop {
        let changed = tokio::select! {
            () = stop.cancelled() => return false,
            changed = manager.changed() => changed,
        };
        let result = match changed {
            Ok(true) if leader.leads() => return true,
            // Held by an earlier process of this pod: it has to be taken anew.
            Ok(true) => manager.release().await,
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::warn!(%error, "the Lease can't be had");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Renews the Lease until it is lost or the term ends.
async fn lost(manager: &LeaseManager, leader: &Leader, term: &CancellationToken) {
    loop {
        let changed = tokio::select! {
            () = term.cancelled() => return,
            changed = manager.changed() => changed,
        };
        match changed {
            Ok(true) => {}
            // An API server that is away for a moment: the term is what it was.
            Err(error) if leader.leads() => {
                tracing::warn!(%error, "the Lease was not renewed");
                tokio::time::sleep(RETRY).await;
            }
            Ok(false) | Err(_) => return,
        }
    }
}

/// Lets a write pass only while its process leads, and counts it.
#[derive(Debug, Clone)]
pub(crate) struct Gate<S> {
    inner: S,
    leader: Arc<Leader>,
    metrics: Metrics,
}

type Answering<R> = Pin<Box<dyn Future<Output = Result<R, BoxError>> + Send>>;

impl<S, B> Service<http::Request<Body>> for Gate<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Answering<S::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.method() != http::Method::GET {
            if !self.leader.leads() {
                return Box::pin(async { Err(NotLeader.into()) });
            }
            self.metrics.wrote(request.method(), request.uri().path());
        }
        let answer = self.inner.call(request);
        Box::pin(async { answer.await.map_err(Into::into) })
    }
}

/// Notes when the Lease was last renewed for this process.
#[derive(Debug, Clone)]
struct Renewals<S> {
    inner: S,
    leader: Arc<Leader>,
    identity: String,
}

impl<S, B> Service<http::Request<Body>> for Renewals<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = http::Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = Answering<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let renews = request.method() == http::Method::PATCH;
        let (sent, leader) = (Instant::now(), Arc::clone(&self.leader));
        let identity = self.identity.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let (parts, body) = answer.await.map_err(Into::into)?.into_parts();
            let body = Limited::new(body, LEASE_BYTES_MAX)
                .collect()
                .await?
                .to_bytes();
            if renews && parts.status.is_success() && is_held_by(&body, &identity) {
                leader.set(Some(sent + TERM));
            }
            Ok(http::Response::from_parts(parts, Full::new(body)))
        })
    }
}

fn is_held_by(lease: &[u8], identity: &str) -> bool {
    let lease: Option<Lease> = serde_json::from_slice(lease).ok();
    let holder = lease.and_then(|lease| lease.spec?.holder_identity);
    holder.is_some_and(|holder| holder == identity)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{Ready, ready};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts what comes through.
    #[derive(Debug, Clone, Default)]
    struct Wire(Arc<AtomicUsize>);

    impl Service<http::Request<Body>> for Wire {
        type Response = http::Response<()>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<Body>) -> Self::Future {
            self.0.fetch_add(1, Ordering::Relaxed);
            ready(Ok(http::Response::new(())))
        }
    }

    #[tokio::test]
    async fn the_gate_lets_writes_of_the_leader_pass() {
        let past = Instant::now();
        let future = past + Duration::from_mins(1);
        let table = [
            (None, "GET", true),
            (None, "PATCH", false),
            (None, "POST", false),
            (None, "DELETE", false),
            (Some(past), "PUT", false),
            (Some(future), "PATCH", true),
            (Some(future), "GET", true),
        ];
        for (until, method, passes) in table {
            let leader = Arc::new(Leader::default());
            leader.set(until);
            let wire = Wire::default();
            let mut gate = Gate {
                inner: wire.clone(),
                leader,
                metrics: Metrics::new(),
            };
            let request = http::Request::builder().method(method);
            let answer = gate.call(request.body(Body::empty()).expect("a request"));
            assert_eq!(answer.await.is_ok(), passes, "{method} {until:?}");
            let heard = wire.0.load(Ordering::Relaxed);
            assert_eq!(heard, usize::from(passes), "{method} {until:?}");
        }
    }
}
