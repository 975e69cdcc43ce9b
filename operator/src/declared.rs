//! What a Topic and a ConsumerGroup have in common: find the cluster and its brokers, make every
//! broker have what the resource says, look again after a minute.
//!
//! The brokers are those that the name server knows and those that the cluster's status names: a
//! broker that has not registered yet is waited for, not forgotten. Of two resources for one name
//! the older one rules.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crds::{Broken, BrokerCluster, DeletionPolicy, OnBroker};
use futures::{StreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::reflector::Store;
use kube::{Resource, ResourceExt};
use protocol::acl::Credentials;
use protocol::body::ClusterInfo;
use protocol::{Frame, RequestCode, header, json};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::admin::{self, Admin};
use crate::cluster::{NAME_SERVER_PORT, ValidCluster};
use crate::condition::{State, Verdict, conditions, is_news};
use crate::{Error, Operator};

/// How often a broker is asked whether it still has what it should.
const DRIFT_CHECK: Duration = Duration::from_mins(1);
const RETRY: Duration = Duration::from_secs(3);
const BROKERS_AT_ONCE_MAX: usize = 8;

/// A resource that every broker of a cluster shall have.
pub(crate) trait Declared:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
    const FINALIZER: &'static str;
    type Status: Clone + PartialEq + Serialize + Send + Sync;

    fn cluster(&self) -> &str;
    fn wire(&self) -> String;
    fn check(&self) -> Result<(), Broken>;
    fn deletion_policy(&self) -> DeletionPolicy;
    fn found(&self) -> (Option<&Self::Status>, &[Condition], &[OnBroker]);
    fn status(&self, brokers: Vec<OnBroker>, conditions: Vec<Condition>) -> Self::Status;

    /// Makes a broker have what the resource says; true when it had to be changed.
    fn put(&self, broker: &mut Admin) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Makes a broker forget it.
    fn remove(&self, broker: &mut Admin) -> impl Future<Output = Result<(), Error>> + Send;

    /// True when clients that ask this name server are sent to all of the brokers.
    fn is_routed(
        &self,
        name_server: &mut Admin,
        brokers: &[OnBroker],
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Makes a name server forget it.
    fn unroute(
        &self,
        name_server: &mut Admin,
        cluster: &str,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

/// What the reconciles of one kind share.
pub(crate) struct Shared<D: Declared> {
    pub operator: Arc<Operator>,
    pub store: Store<D>,
}

pub(crate) async fn reconcile<D: Declared>(
    object: Arc<D>,
    shared: Arc<Shared<D>>,
) -> Result<Action, Error> {
    let operator = &shared.operator;
    let held = object.finalizers().iter().any(|f| f == D::FINALIZER);
    let deletes = object.deletion_policy() == DeletionPolicy::Delete;
    if object.meta().deletion_timestamp.is_some() {
        if held {
            if deletes {
                remove(&shared, object.as_ref()).await?;
            }
            hold(operator, object.as_ref(), false).await?;
        }
        return Ok(Action::await_change());
    }
    if held != deletes {
        hold(operator, object.as_ref(), deletes).await?;
    }
    let (verdict, brokers) = judge(&shared, object.as_ref()).await?;
    let generation = object.meta().generation.unwrap_or_default();
    let (status, known, _) = object.found();
    let now = conditions(known, generation, &verdict, &[], Timestamp::now());
    let wanted = object.status(brokers, now);
    operator
        .write_status(object.as_ref(), status, &wanted)
        .await?;
    if is_news(known, &verdict) {
        operator.tell(object.as_ref(), &verdict, None).await;
    }
    Ok(Action::requeue(match verdict.state {
        State::Working => RETRY,
        State::Ready | State::Stalled | State::Paused => DRIFT_CHECK,
    }))
}

/// Does what can be done now and says what is missing.
async fn judge<D: Declared>(
    shared: &Shared<D>,
    object: &D,
) -> Result<(Verdict, Vec<OnBroker>), Error> {
    let kept = || object.found().2.to_vec();
    if let Err(broken) = object.check() {
        return Ok((Verdict::stalled("Invalid", broken.to_string()), kept()));
    }
    if let Some(elder) = elder(shared, object) {
        let message = format!(
            "{} {elder} is older and declares the same name",
            D::kind(&())
        );
        return Ok((Verdict::stalled("Conflict", message), Vec::new()));
    }
    let Some(cluster) = cluster_of(&shared.operator, object).await? else {
        let message = format!(
            "there is no BrokerCluster {} in this namespace",
            object.cluster()
        );
        return Ok((Verdict::stalled("ClusterNotFound", message), kept()));
    };
    if cluster.spec.paused {
        let message = format!("BrokerCluster {} is paused", object.cluster());
        return Ok((
            Verdict {
                state: State::Paused,
                reason: "Paused",
                message,
            },
            kept(),
        ));
    }
    let credentials = shared.operator.credentials().await?;
    let brokers = match brokers(&shared.operator, &cluster, credentials.clone()).await {
        Ok(brokers) if brokers.is_empty() => {
            let message = format!("BrokerCluster {} has no brokers yet", object.cluster());
            return Ok((Verdict::working("WaitingForBrokers", message), kept()));
        }
        Ok(brokers) => brokers,
        Err(error) => {
            return Ok((
                Verdict::working("WaitingForNameServer", error.to_string()),
                kept(),
            ));
        }
    };
    let puts = stream::iter(brokers).map(|(name, address)| {
        let credentials = credentials.clone();
        async move { put(object, name, &address, credentials).await }
    });
    let brokers: Vec<OnBroker> = puts.buffered(BROKERS_AT_ONCE_MAX).collect().await;
    let verdict = put_everywhere(&brokers);
    if verdict.state != State::Ready {
        return Ok((verdict, brokers));
    }
    let address = name_server(&shared.operator, &cluster);
    let routed = async {
        let mut name_server = Admin::open(&address, credentials).await?;
        object.is_routed(&mut name_server, &brokers).await
    };
    let verdict = match routed.await {
        Ok(true) => verdict,
        Ok(false) => {
            let message = "the route of the name server does not show all brokers yet";
            Verdict::working("WaitingForRoute", message.to_owned())
        }
        Err(error) => Verdict::working("WaitingForNameServer", error.to_string()),
    };
    Ok((verdict, brokers))
}

/// Ready when all brokers have it, else the first reason why not.
fn put_everywhere(brokers: &[OnBroker]) -> Verdict {
    let (all, done) = (
        brokers.len(),
        brokers.iter().filter(|broker| broker.synced).count(),
    );
    match brokers.iter().find(|broker| !broker.synced) {
        None => Verdict::ready(format!("on all {all} brokers")),
        Some(missing) => {
            let (name, why) = (&missing.name, &missing.message);
            let message = format!("on {done} of {all} brokers; {name}: {why}");
            Verdict::working("WaitingForBrokers", message)
        }
    }
}

async fn put<D: Declared>(
    object: &D,
    name: String,
    address: &str,
    credentials: Option<Credentials>,
) -> OnBroker {
    let result = async {
        let mut broker = Admin::open(address, credentials).await?;
        object.put(&mut broker).await
    };
    match result.await {
        Ok(changed) => {
            if changed {
                let (kind, wire) = (D::kind(&()), object.wire());
                tracing::info!(broker = name, %kind, name = wire, "put onto the broker");
            }
            OnBroker {
                name,
                synced: true,
                message: String::new(),
            }
        }
        Err(error) => OnBroker {
            name,
            synced: false,
            message: error.to_string(),
        },
    }
}

/// Names and addresses of all brokers that the cluster has or shall have.
async fn brokers(
    operator: &Operator,
    cluster: &BrokerCluster,
    credentials: Option<Credentials>,
) -> Result<BTreeMap<String, String>, Error> {
    let groups = cluster.status.iter().flat_map(|status| &status.groups);
    let mut brokers: BTreeMap<String, String> = groups
        .map(|group| (group.name.clone(), group.address.clone()))
        .collect();
    let address = name_server(operator, cluster);
    let mut name_server = Admin::open(&address, credentials).await?;
    let request = Frame::request(RequestCode::GetBrokerClusterInfo, &header::Empty);
    let answer = name_server.ask(request).await?;
    let info: ClusterInfo = json::from_fastjson(&answer.body).map_err(|error| Error::Answer {
        address,
        reason: error.to_string(),
    })?;
    for name in info
        .cluster_addr_table
        .get(&cluster.wire_name())
        .into_iter()
        .flatten()
    {
        let registered = info.broker_addr_table.get(name);
        if let Some(master) = registered.and_then(|broker| broker.broker_addrs.get(&0)) {
            brokers.insert(name.clone(), master.clone());
        }
    }
    Ok(brokers)
}

/// The address of a cluster's name servers, any of them.
fn name_server(operator: &Operator, cluster: &BrokerCluster) -> String {
    let namespace = cluster.namespace().unwrap_or_default();
    let service = ValidCluster::name_server_service(&cluster.name_any());
    let domain = &operator.options.cluster_domain;
    format!("{service}.{namespace}.svc.{domain}:{NAME_SERVER_PORT}")
}

async fn cluster_of<D: Declared>(
    operator: &Operator,
    object: &D,
) -> Result<Option<BrokerCluster>, Error> {
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<BrokerCluster> = Api::namespaced(operator.client.clone(), &namespace);
    api.get_opt(object.cluster()).await.map_err(Error::Read)
}

/// The resource that declares the same name and was there before.
fn elder<D: Declared>(shared: &Shared<D>, object: &D) -> Option<String> {
    let age = |object: &D| (object.creation_timestamp(), object.uid());
    let rivals = rivals(shared, object);
    rivals
        .iter()
        .find(|rival| age(rival) < age(object))
        .map(|rival| rival.name_any())
}

/// All other resources that declare the same name.
fn rivals<D: Declared>(shared: &Shared<D>, object: &D) -> Vec<Arc<D>> {
    let is_rival = |other: &Arc<D>| {
        other.uid() != object.uid()
            && other.meta().deletion_timestamp.is_none()
            && other.namespace() == object.namespace()
            && other.cluster() == object.cluster()
            && other.wire() == object.wire()
    };
    shared.store.state().into_iter().filter(is_rival).collect()
}

/// Adds or drops the finalizer that lets the operator clean up brokers before the resource goes.
async fn hold<D: Declared>(operator: &Operator, object: &D, held: bool) -> Result<(), Error> {
    let mut finalizers = object.finalizers().to_vec();
    finalizers.retain(|finalizer| finalizer != D::FINALIZER);
    if held {
        finalizers.push(D::FINALIZER.to_owned());
    }
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<D> = Api::namespaced(operator.client.clone(), &namespace);
    // The version makes the write fail if somebody else has changed the list since.
    let version = object.resource_version();
    let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": version}});
    let name = object.name_any();
    let patched = api
        .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    let what = format!("the finalizers of {} {name}", D::kind(&()));
    patched
        .map(drop)
        .map_err(|source| Error::Write { what, source })
}

/// Removes what a resource declared from all brokers and name servers, unless another resource
/// declares it too or the cluster goes as well.
async fn remove<D: Declared>(shared: &Shared<D>, object: &D) -> Result<(), Error> {
    let operator = &shared.operator;
    let cluster = cluster_of(operator, object).await?;
    let cluster = cluster.filter(|cluster| cluster.meta().deletion_timestamp.is_none());
    let (Some(cluster), true) = (cluster, rivals(shared, object).is_empty()) else {
        return Ok(());
    };
    let credentials = operator.credentials().await?;
    for (_, address) in brokers(operator, &cluster, credentials.clone()).await? {
        let mut broker = Admin::open(&address, credentials.clone()).await?;
        object.remove(&mut broker).await?;
    }
    for address in cluster
        .status
        .iter()
        .flat_map(|status| &status.name_servers)
    {
        let mut name_server = Admin::open(address, credentials.clone()).await?;
        object
            .unroute(&mut name_server, &cluster.wire_name())
            .await?;
    }
    let (kind, name) = (D::kind(&()), object.wire());
    tracing::info!(%kind, name, "removed from all brokers");
    Ok(())
}

impl Operator {
    async fn credentials(&self) -> Result<Option<Credentials>, Error> {
        admin::credentials(self.options.credentials_dir.as_deref()).await
    }
}
