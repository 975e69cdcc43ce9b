//! The operator's process: its options, its three controllers, its ports, its end.

use std::collections::HashMap;
use std::fmt::Debug;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crds::{BrokerCluster, ConsumerGroup, Topic};
use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::Api;
use kube::runtime::controller::{self, Action, Config};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Controller, WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cluster;
use crate::condition::{State, Verdict};
use crate::declared::{self, Declared, Shared};
use crate::leader::{self, Leader};
use crate::metrics::Metrics;

/// Reconciles of one kind that run at the same time.
const RECONCILES_AT_ONCE_MAX: u16 = 16;
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(5);
/// Events that follow each other more closely are one reconcile.
const DEBOUNCE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub struct Options {
    /// The one namespace to look after; all when empty.
    pub namespace: String,
    /// Metrics and probes.
    pub http: SocketAddr,
    /// Image of brokers and name servers, where a BrokerCluster names none.
    pub image: String,
    /// The domain of Service names.
    pub cluster_domain: String,
    /// Holds the files `accessKey` and `secretKey`, if calls to brokers shall be signed.
    pub credentials_dir: Option<PathBuf>,
    /// Where the leader's Lease lies.
    pub lease_namespace: String,
    /// Under which name this process holds it: no two that run at the same time may share it.
    pub identity: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the Kubernetes API can't be reached: {0}")]
    Client(#[source] kube::Error),
    #[error("the port {address} can't be opened: {source}")]
    Port {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("can't read from the Kubernetes API: {}", said(.0))]
    Read(#[source] kube::Error),
    #[error("can't write {what}: {}", said(.source))]
    Write { what: String, source: kube::Error },
    #[error("the Lease of the leader can't be had: {0}")]
    Lease(#[source] kube_lease_manager::LeaseManagerError),
    #[error("{0} exists and belongs to somebody else")]
    Taken(String),
    #[error("Service {0} has no ClusterIP")]
    NoAddress(String),
    #[error("{0}")]
    Call(#[from] net::client::CallError),
    #[error("{address} answered what can't be read: {reason}")]
    Answer { address: String, reason: String },
    #[error("this operator does not lead any more")]
    NotLeader,
    #[error("Secret {0} does not exist or has no accessKey and secretKey")]
    NoCredentials(String),
    #[error("the operator may not read Secret {0}: install it with readSecrets")]
    SecretForbidden(String),
    #[error("the credentials in {path:?} can't be read: {source}")]
    Credentials {
        path: PathBuf,
        source: std::io::Error,
    },
}

impl Error {
    /// True when trying again is of no use until somebody changes something.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Error::Write {
                source: kube::Error::Api(status),
                ..
            } => {
                matches!(status.code, 400 | 403 | 422)
            }
            Error::Taken(_) => true,
            _ => false,
        }
    }
}

/// The sentence of an error. The API server may add the whole difference below it.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.lines().next().unwrap_or_default().to_owned(),
        other => other.to_string(),
    }
}

/// What all reconciles share.
pub(crate) struct Operator {
    pub client: Client,
    pub options: Options,
    pub leader: Arc<Leader>,
    pub metrics: Metrics,
    recorder: Recorder,
    /// Failures in a row, by kind and object.
    failures: Mutex<HashMap<String, u32>>,
    /// One of [`STANDBY`], [`READING`] and [`LEADING`].
    state: AtomicU8,
}

/// Another operator leads.
const STANDBY: u8 = 0;
/// Leads, but has not read all resources yet.
const READING: u8 = 1;
const LEADING: u8 = 2;

/// Runs until `stop`: its controllers while it leads, its pages all the time.
pub async fn run(
    options: Options,
    stop: CancellationToken,
    started: impl FnOnce() + Send,
) -> Result<(), Error> {
    let config = kube::Config::infer().await;
    let config = config.map_err(|error| Error::Client(kube::Error::InferConfig(error)))?;
    let address = options.http;
    let port = TcpListener::bind(address).await;
    let port = port.map_err(|source| Error::Port { address, source })?;
    let (leader, metrics) = (Arc::new(Leader::default()), Metrics::new());
    let client = leader::gated(config.clone(), &leader, &metrics).map_err(Error::Client)?;
    let manager = leader::lease(config, &leader, &options).await?;
    let reporter = Reporter {
        controller: cluster::OPERATOR.to_owned(),
        instance: None,
    };
    let operator = Arc::new(Operator {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        options,
        leader: Arc::clone(&leader),
        metrics,
        failures: Mutex::default(),
        state: AtomicU8::new(STANDBY),
    });
    started();
    let pages = net::http::serve(port, Arc::clone(&operator), stop.clone());
    let work = leader::while_leading(manager, &leader, &stop, |term| {
        lead(Arc::clone(&operator), term)
    });
    tokio::join!(work, pages);
    Ok(())
}

/// Runs the controllers for one term.
async fn lead(operator: Arc<Operator>, term: CancellationToken) {
    operator.state.store(READING, Ordering::Release);
    let clusters = clusters(&operator);
    let topics = controller_of::<Topic>(&operator);
    let groups = controller_of::<ConsumerGroup>(&operator);
    let stores = (clusters.store(), topics.store(), groups.store());
    let clusters_read = CancellationToken::new();
    let read = async {
        let known = async {
            let read = stores.0.wait_until_ready().await;
            clusters_read.cancel();
            read
        };
        let all = tokio::join!(
            known,
            stores.1.wait_until_ready(),
            stores.2.wait_until_ready(),
        );
        if all.0.is_ok() && all.1.is_ok() && all.2.is_ok() {
            operator.state.store(LEADING, Ordering::Release);
        }
    };
    let ((), (), (), ()) = tokio::join!(
        run_clusters(clusters, &operator, &term),
        run_declared(topics, (&stores.0, &clusters_read), &operator, &term),
        run_declared(groups, (&stores.0, &clusters_read), &operator, &term),
        read,
    );
    operator.state.store(STANDBY, Ordering::Release);
}

fn clusters(operator: &Operator) -> Controller<BrokerCluster> {
    let ours = watcher::Config::default().labels(&format!(
        "{}={}",
        cluster::MANAGED_BY,
        cluster::OPERATOR
    ));
    controller_of::<BrokerCluster>(operator)
        .owns(operator.api::<StatefulSet>(), ours.clone())
        .owns(operator.api::<Service>(), ours.clone())
        .owns(operator.api::<EndpointSlice>(), ours.clone())
        .owns(operator.api::<ConfigMap>(), ours.clone())
        .owns(operator.api::<PodDisruptionBudget>(), ours.clone())
        .owns(operator.api::<NetworkPolicy>(), ours.clone())
        .owns(operator.api::<ServiceAccount>(), ours.clone())
        .owns(operator.api::<Role>(), ours.clone())
        .owns(operator.api::<RoleBinding>(), ours)
}

fn controller_of<K>(operator: &Operator) -> Controller<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let config = Config::default()
        .concurrency(RECONCILES_AT_ONCE_MAX)
        .debounce(DEBOUNCE);
    let (reader, writer) = reflector::store();
    let objects = watcher(operator.api::<K>(), watcher::Config::default())
        // Who has set which field takes more memory than all else of an object.
        .modify(|object| object.meta_mut().managed_fields = None)
        .reflect(writer)
        .applied_objects();
    Controller::for_stream(objects, reader).with_config(config)
}

async fn run_clusters(
    controller: Controller<BrokerCluster>,
    operator: &Arc<Operator>,
    stop: &CancellationToken,
) {
    controller
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(
            |cluster, operator| async move {
                let work = Box::pin(cluster::reconcile(
                    Arc::clone(&cluster),
                    Arc::clone(&operator),
                ));
                operator.timed(cluster.as_ref(), work).await
            },
            |cluster, error, operator| operator.retry(cluster.as_ref(), error),
            Arc::clone(operator),
        )
        .for_each(done)
        .await;
}

async fn run_declared<D: Declared>(
    controller: Controller<D>,
    clusters: (&Store<BrokerCluster>, &CancellationToken),
    operator: &Arc<Operator>,
    stop: &CancellationToken,
) {
    let store = controller.store();
    let of_cluster = store.clone();
    let shared = Arc::new(Shared::new(operator, store, clusters));
    controller
        .watches(
            operator.api::<BrokerCluster>(),
            watcher::Config::default(),
            move |cluster| members(&of_cluster, &cluster),
        )
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(
            |object, shared| async move {
                let work = declared::reconcile(Arc::clone(&object), Arc::clone(&shared));
                shared.operator.timed(object.as_ref(), work).await
            },
            |object, error, shared: Arc<Shared<D>>| shared.operator.retry(object.as_ref(), error),
            shared,
        )
        .for_each(done)
        .await;
}

/// A reconcile that failed is logged where it is tried again; here, watches that do not work.
fn done<K, W: std::fmt::Display>(
    result: Result<(ObjectRef<K>, Action), controller::Error<Error, W>>,
) -> std::future::Ready<()>
where
    K: Resource<DynamicType = ()>,
{
    if let Err(controller::Error::QueueError(error)) = result {
        tracing::warn!(%error, kind = %K::kind(&()), "a watch failed");
    }
    std::future::ready(())
}

/// The topics or groups of a cluster, which its change concerns.
fn members<D: Declared>(store: &Store<D>, cluster: &BrokerCluster) -> Vec<ObjectRef<D>> {
    let of_cluster = |object: &Arc<D>| {
        let name = cluster.name_any();
        object.namespace() == cluster.namespace() && object.terms().cluster == Some(&*name)
    };
    let objects = store.state();
    objects
        .iter()
        .filter(|o| of_cluster(o))
        .map(|o| ObjectRef::from_obj(o.as_ref()))
        .collect()
}

impl Operator {
    /// The objects of a kind in the namespaces that are looked after.
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match self.options.namespace.as_str() {
            "" => Api::all(self.client.clone()),
            namespace => Api::namespaced(self.client.clone(), namespace),
        }
    }

    /// Counts and times a reconcile, and forgets earlier failures when it succeeds.
    async fn timed<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        work: impl Future<Output = Result<Action, Error>>,
    ) -> Result<Action, Error> {
        let kind = K::kind(&());
        let start = Instant::now();
        let result = work.await;
        self.metrics
            .reconciled(&kind, start.elapsed(), result.is_ok());
        if result.is_ok() {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            failures.remove(&key(object));
        }
        result
    }

    /// When a failed reconcile is tried again: later each time.
    fn retry<K: Resource<DynamicType = ()>>(&self, object: &K, error: &Error) -> Action {
        let key = key(object);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key.clone()).or_default();
        *count = count.saturating_add(1);
        let wait = RETRY_FIRST
            .saturating_mul(1 << (*count - 1).min(16))
            .min(RETRY_MAX);
        tracing::warn!(object = key, %error, ?wait, "a reconcile failed");
        Action::requeue(wait)
    }

    /// Publishes an event. That it fails is worth a line, and no more.
    pub(crate) async fn tell<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        verdict: &Verdict,
        related: Option<ObjectReference>,
    ) {
        let event = Event {
            type_: match verdict.state {
                State::Stalled => EventType::Warning,
                State::Ready | State::Working | State::Paused => EventType::Normal,
            },
            reason: verdict.reason.to_owned(),
            note: Some(verdict.message.clone()),
            action: "Reconcile".to_owned(),
            secondary: related,
        };
        if let Err(error) = self.recorder.publish(&event, &object.object_ref(&())).await {
            tracing::warn!(
                object = key(object),
                error = said(&error),
                "no event was recorded"
            );
        }
    }
}

fn key<K: Resource<DynamicType = ()>>(object: &K) -> String {
    let namespace = object.namespace().unwrap_or_default();
    format!("{} {namespace}/{}", K::kind(&()), object.name_any())
}

impl net::http::Pages for Operator {
    fn registry(&self) -> &prometheus::Registry {
        &self.metrics.registry
    }

    fn refresh(&self) {
        self.metrics.groups.forget_idle();
    }

    fn ready(&self) -> Result<(), String> {
        match self.state.load(Ordering::Acquire) {
            READING => Err("the resources have not been read yet".to_owned()),
            _ => Ok(()),
        }
    }
}
