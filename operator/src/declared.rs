//! What a Topic and a ConsumerGroup have in common: find their brokers, make each have what the
//! resource says, look again before anybody notices.
//!
//! The brokers are those that the name server knows and those that the cluster's status names: a
//! broker that has not registered yet is waited for, not forgotten. Of two resources for one name
//! the older one rules. What is decided is in [`plan`], what is known of brokers in [`site`].

mod plan;
mod site;

pub(crate) use plan::{After, Brought, Difference, Found, May, Terms, differences, missing};
pub(crate) use site::{Site, Sites};

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crds::{Broken, BrokerCluster, OnBroker};
use futures::{StreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::condition::{Fact, State, Verdict, conditions, is_news};
use crate::{Error, Operator};
use plan::Ending;

/// How often a broker is asked whether it still has what it should: with the age of what is known
/// of brokers, less than half a minute.
const DRIFT_CHECK: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_secs(3);
const BROKERS_AT_ONCE_MAX: usize = 8;
/// Who declares what is looked up in an index of at most this age.
const CLAIMS_AGE_MAX: Duration = Duration::from_secs(2);

/// A resource that brokers shall have.
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
    /// What a broker has.
    type Config: Clone + Debug + Send + Sync + 'static;

    fn terms(&self) -> Terms<'_>;
    fn check(&self) -> Result<(), Broken>;
    fn known(&self) -> Known<'_, Self::Status>;
    fn status(&self, report: Report) -> Self::Status;
    /// Something, when nothing is left to do about what a broker has.
    fn agrees(&self, found: &Self::Config) -> Option<Brought>;

    /// All that a broker has, by name.
    fn list(
        broker: &mut Admin,
    ) -> impl Future<Output = Result<BTreeMap<String, Self::Config>, Error>> + Send;

    /// Makes a broker have what the resource says, as far as it may.
    fn bring(
        &self,
        broker: &mut Admin,
        may: May,
    ) -> impl Future<Output = Result<Brought, Error>> + Send;

    /// What there is to say once all brokers were seen.
    fn finish(
        &self,
        shared: &Shared<Self>,
        site: &Site,
        report: &mut Report,
    ) -> impl Future<Output = ()> + Send;

    /// Makes a broker forget it.
    fn remove(&self, broker: &mut Admin) -> impl Future<Output = Result<(), Error>> + Send;

    /// Makes a broker take no more messages for it, and tells how many it holds.
    fn drain(
        &self,
        broker: &mut Admin,
        close: bool,
    ) -> impl Future<Output = Result<i64, Error>> + Send;

    /// Makes a name server forget it.
    fn unroute(
        &self,
        name_server: &mut Admin,
        cluster: Option<&str>,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

/// What the status of a resource says already.
#[derive(Debug)]
pub(crate) struct Known<'a, S> {
    pub status: Option<&'a S>,
    pub generation: i64,
    pub brokers: &'a [OnBroker],
    pub conditions: &'a [Condition],
}

impl<S> Known<'_, S> {
    /// The time since which a condition is true.
    pub(crate) fn since(&self, name: &str) -> Option<Timestamp> {
        let holds = |c: &&Condition| c.type_ == name && c.status == "True";
        let condition = self.conditions.iter().find(holds)?;
        Some(condition.last_transition_time.0)
    }
}

/// What a reconcile has seen and says.
#[derive(Debug)]
pub(crate) struct Report {
    pub cluster: String,
    pub verdict: Verdict,
    pub found: Found,
    pub facts: Vec<Fact>,
    pub conditions: Vec<Condition>,
    pub progress: Option<crds::group::Progress>,
    /// Brokers were not seen: what was said of them before still stands.
    pub blind: bool,
    /// Not all was seen that there are conditions of.
    pub partial: bool,
}

impl Report {
    /// Nothing has been seen yet.
    fn blind(verdict: Verdict) -> Self {
        Report {
            cluster: String::new(),
            verdict,
            found: Found::default(),
            facts: Vec::new(),
            conditions: Vec::new(),
            progress: None,
            blind: true,
            partial: true,
        }
    }
}

/// What the reconciles of one kind share.
pub(crate) struct Shared<D: Declared> {
    pub operator: Arc<Operator>,
    pub store: Store<D>,
    pub clusters: Store<BrokerCluster>,
    /// Cancelled once they are known. A store wakes only the last of those who wait for it.
    pub clusters_read: CancellationToken,
    sites: Sites<D::Config>,
    claims: Mutex<Claims>,
}

/// By place and name on the wire: who declares it, with its age.
#[derive(Debug, Default)]
struct Claims {
    read: Option<Instant>,
    by_name: HashMap<(String, String), Vec<Claim>>,
}

/// Ordered by age.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    created: Option<Time>,
    uid: String,
    name: String,
}

impl<D: Declared> Shared<D> {
    pub(crate) fn new(
        operator: &Arc<Operator>,
        store: Store<D>,
        (clusters, clusters_read): (&Store<BrokerCluster>, &CancellationToken),
    ) -> Self {
        Shared {
            operator: Arc::clone(operator),
            store,
            clusters: clusters.clone(),
            clusters_read: clusters_read.clone(),
            sites: Sites::default(),
            claims: Mutex::default(),
        }
    }

    /// All other resources that declare the same name, the oldest first.
    fn rivals(&self, object: &D) -> Vec<Claim> {
        let uid = object.uid().unwrap_or_default();
        let name = name_of(object);
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = claims.read.is_some_and(|at| at.elapsed() < CLAIMS_AGE_MAX);
        let knows = |claims: &Claims| {
            let of_name = claims.by_name.get(&name);
            of_name.is_some_and(|all| all.iter().any(|claim| claim.uid == uid))
        };
        if !fresh || !knows(&claims) {
            *claims = Claims::read(&self.store.state());
        }
        let of_name = claims.by_name.get(&name).into_iter().flatten();
        of_name.filter(|claim| claim.uid != uid).cloned().collect()
    }

    fn forget_claims(&self) {
        *self.claims.lock().unwrap_or_else(PoisonError::into_inner) = Claims::default();
    }

    fn cluster_of(&self, object: &D, name: &str) -> Option<Arc<BrokerCluster>> {
        let namespace = object.namespace().unwrap_or_default();
        self.clusters.get(&ObjectRef::new(name).within(&namespace))
    }
}

impl Claims {
    fn read<D: Declared>(objects: &[Arc<D>]) -> Self {
        let mut by_name: HashMap<_, Vec<Claim>> = HashMap::new();
        for object in objects {
            if object.meta().deletion_timestamp.is_none() {
                let claims = by_name.entry(name_of(object.as_ref())).or_default();
                claims.push(claim(object.as_ref()));
                claims.sort_unstable();
            }
        }
        Claims {
            read: Some(Instant::now()),
            by_name,
        }
    }
}

fn claim<D: Declared>(object: &D) -> Claim {
    Claim {
        created: object.creation_timestamp(),
        uid: object.uid().unwrap_or_default(),
        name: object.name_any(),
    }
}

fn name_of<D: Declared>(object: &D) -> (String, String) {
    let terms = object.terms();
    let namespace = object.namespace().unwrap_or_default();
    (site::key(&namespace, &terms), terms.wire)
}

pub(crate) async fn reconcile<D: Declared>(
    object: Arc<D>,
    shared: Arc<Shared<D>>,
) -> Result<Action, Error> {
    shared.clusters_read.cancelled().await;
    let operator = &shared.operator;
    let object = object.as_ref();
    let held = object.finalizers().iter().any(|f| f == D::FINALIZER);
    if object.meta().deletion_timestamp.is_some() {
        return if held {
            end(&shared, object).await
        } else {
            Ok(Action::await_change())
        };
    }
    let holds = plan::holds(&object.terms());
    if held != holds {
        hold(operator, object, holds).await?;
    }
    let mut report = Report::blind(Verdict::ready(String::new()));
    report.verdict = look(&shared, object, &mut report).await?;
    publish(&shared, object, report).await
}

/// Writes the status and tells what is new.
async fn publish<D: Declared>(
    shared: &Shared<D>,
    object: &D,
    mut report: Report,
) -> Result<Action, Error> {
    let operator = &shared.operator;
    let known = object.known();
    let generation = object.meta().generation.unwrap_or_default();
    let terms = object.terms();
    let place = terms.cluster.map(str::to_owned);
    report.cluster = place
        .or_else(|| terms.name_servers.first().cloned())
        .unwrap_or_default();
    let (verdict, old) = (report.verdict.clone(), known.conditions);
    let mut now = conditions(old, generation, &verdict, &report.facts, Timestamp::now());
    if report.blind {
        report.found.brokers = known.brokers.to_vec();
    }
    if report.partial {
        let usual = ["Ready", "Reconciling", "Stalled"];
        let said = |c: &&Condition| {
            !usual.contains(&c.type_.as_str()) && !now.iter().any(|n| n.type_ == c.type_)
        };
        let kept: Vec<Condition> = old.iter().filter(said).cloned().collect();
        now.extend(kept);
    }
    let drifted = |conditions: &[Condition]| {
        let mut drifted = conditions.iter().filter(|c| c.type_ == "DriftDetected");
        drifted.any(|c| c.status == "True")
    };
    let mut news = Vec::new();
    if is_news(old, &verdict) {
        news.push(verdict.clone());
    }
    if drifted(&now) && !drifted(old) {
        let message = plan::list(&report.found.drift);
        news.push(Verdict::stalled("DriftDetected", message));
    }
    if !report.found.repaired.is_empty() {
        let message = plan::list(&report.found.repaired);
        tracing::info!(kind = %D::kind(&()), name = terms.wire, message, "drift was repaired");
        operator.metrics.repaired(&D::kind(&()));
        news.push(Verdict {
            state: State::Ready,
            reason: "DriftRepaired",
            message,
        });
    }
    report.conditions = now;
    let status = object.status(report);
    operator.write_status(object, known.status, &status).await?;
    for verdict in news {
        operator.tell(object, &verdict, None).await;
    }
    Ok(Action::requeue(match verdict.state {
        State::Working => RETRY,
        State::Ready | State::Stalled | State::Paused => DRIFT_CHECK,
    }))
}

/// Does what can be done now and says what is missing.
async fn look<D: Declared>(
    shared: &Shared<D>,
    object: &D,
    report: &mut Report,
) -> Result<Verdict, Error> {
    if let Err(broken) = object.check() {
        return Ok(Verdict::stalled("Invalid", broken.to_string()));
    }
    let terms = object.terms();
    let me = claim(object);
    if let Some(elder) = shared.rivals(object).into_iter().find(|other| *other < me) {
        let (kind, elder) = (D::kind(&()), elder.name);
        let message = format!("{kind} {elder} is older and declares the same name");
        report.facts.push(plan::conflict(&message));
        return Ok(Verdict::stalled("Conflict", message));
    }
    let cluster = match terms.cluster {
        None => None,
        Some(name) => {
            let Some(cluster) = shared.cluster_of(object, name) else {
                let message = format!("there is no BrokerCluster {name} in this namespace");
                return Ok(Verdict::stalled("ClusterNotFound", message));
            };
            if cluster.spec.paused {
                return Ok(Verdict {
                    state: State::Paused,
                    reason: "Paused",
                    message: format!("BrokerCluster {name} is paused"),
                });
            }
            Some(cluster)
        }
    };
    let namespace = object.namespace().unwrap_or_default();
    let site = shared
        .sites
        .find(&shared.operator, &namespace, &terms, cluster.as_deref());
    let site = match site.await {
        Ok(site) => site,
        Err(error @ (Error::NoCredentials(_) | Error::SecretForbidden(_))) => {
            return Ok(Verdict::stalled("NoCredentials", error.to_string()));
        }
        Err(error) => {
            return Ok(Verdict::working("WaitingForNameServer", error.to_string()));
        }
    };
    let (brokers, absent) = site.placed(terms.placement);
    if brokers.is_empty() && absent.is_empty() {
        let message = "there are no brokers yet".to_owned();
        return Ok(Verdict::working("WaitingForBrokers", message));
    }
    visit(shared, object, &site, &brokers, &mut report.found).await;
    for name in absent {
        let why = "no name server knows this broker".to_owned();
        report.found.failed(name, why);
    }
    report.blind = false;
    report.partial = false;
    report.facts = report.found.facts();
    report.verdict = report.found.verdict(terms.may);
    object.finish(shared, &site, report).await;
    Ok(report.verdict.clone())
}

/// Brings all brokers nearer to what is wanted.
async fn visit<D: Declared>(
    shared: &Shared<D>,
    object: &D,
    site: &Site,
    brokers: &[(&str, &str)],
    found: &mut Found,
) {
    let known = object.known();
    let terms = object.terms();
    let same = Some(known.generation) == object.meta().generation;
    let terms = &terms;
    let visits = brokers.iter().map(|&(name, address)| async move {
        (name, bring(shared, object, site, address, terms).await)
    });
    let visits = stream::iter(visits.collect::<Vec<_>>());
    let visits: Vec<_> = visits.buffered(BROKERS_AT_ONCE_MAX).collect().await;
    for (name, result) in visits {
        let mut before = known.brokers.iter().filter(|broker| broker.name == name);
        let was_synced = same && before.any(|broker| broker.synced);
        match result {
            Ok(brought) => found.add(name, was_synced, terms.may, brought),
            Err(error) => found.failed(name, error.to_string()),
        }
    }
}

async fn bring<D: Declared>(
    shared: &Shared<D>,
    object: &D,
    site: &Site,
    address: &str,
    terms: &Terms<'_>,
) -> Result<Brought, Error> {
    let read = || async {
        let mut broker = site.broker(address).await?;
        D::list(&mut broker).await
    };
    if let Some(list) = shared.sites.list(site, address, read).await
        && let Some(config) = list.get(&terms.wire)
        && let Some(brought) = object.agrees(config)
    {
        return Ok(brought);
    }
    let mut broker = site.broker(address).await?;
    let brought = object.bring(&mut broker, terms.may).await?;
    if brought.wrote {
        tracing::info!(address, kind = %D::kind(&()), name = terms.wire, "put onto the broker");
    }
    Ok(brought)
}

/// A resource that is being deleted and that the operator holds.
async fn end<D: Declared>(shared: &Shared<D>, object: &D) -> Result<Action, Error> {
    let operator = &shared.operator;
    let terms = object.terms();
    let cluster = terms
        .cluster
        .and_then(|name| shared.cluster_of(object, name));
    let going = |cluster: &Arc<BrokerCluster>| cluster.meta().deletion_timestamp.is_some();
    let gone = terms.cluster.is_some() && cluster.as_ref().is_none_or(going);
    // What was true some seconds ago must not decide about data.
    shared.forget_claims();
    let claimed = !shared.rivals(object).is_empty();
    let ending = plan::ending(&terms, gone, claimed);
    if ending == Ending::Release || namespace_goes(operator, object).await {
        hold(operator, object, false).await?;
        return Ok(Action::await_change());
    }
    let if_empty = ending == Ending::RemoveIfEmpty;
    let blocked = match ending {
        Ending::Blocked(verdict) => Ok(Some(verdict)),
        _ => remove(shared, object, cluster.as_deref(), if_empty).await,
    };
    let verdict = match blocked {
        Ok(None) => {
            hold(operator, object, false).await?;
            return Ok(Action::await_change());
        }
        Ok(Some(verdict)) => verdict,
        Err(error) => Verdict::working("Removing", error.to_string()),
    };
    publish(shared, object, Report::blind(verdict)).await
}

/// Nobody can be asked any more, and nothing may keep a namespace from going.
async fn namespace_goes<D: Declared>(operator: &Operator, object: &D) -> bool {
    let name = object.namespace().unwrap_or_default();
    let api: Api<Namespace> = Api::all(operator.client.clone());
    match api.get_opt(&name).await {
        Ok(found) => found.is_none_or(|found| found.metadata.deletion_timestamp.is_some()),
        Err(error) => {
            tracing::debug!(%error, name, "the namespace can't be read");
            false
        }
    }
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
    match patched {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        patched => patched
            .map(drop)
            .map_err(|source| Error::Write { what, source }),
    }
}

/// Removes what a resource declared from all brokers and name servers; says why it does not.
async fn remove<D: Declared>(
    shared: &Shared<D>,
    object: &D,
    cluster: Option<&BrokerCluster>,
    if_empty: bool,
) -> Result<Option<Verdict>, Error> {
    let terms = object.terms();
    let namespace = object.namespace().unwrap_or_default();
    let site = shared
        .sites
        .find(&shared.operator, &namespace, &terms, cluster);
    let site = site.await?;
    let (placed, _) = site.placed(terms.placement);
    let mut brokers = Vec::new();
    for (_, address) in placed {
        brokers.push(site.broker(address).await?);
    }
    if if_empty {
        // Counted before, so that a topic in use is not touched, and again when it takes no more.
        for close in [false, true] {
            let mut messages = 0;
            for broker in &mut brokers {
                messages += object.drain(broker, close).await?;
            }
            if messages > 0 {
                for broker in brokers.iter_mut().filter(|_| close) {
                    object.bring(broker, terms.may).await?;
                }
                return Ok(Some(plan::not_empty(messages)));
            }
        }
    }
    for broker in &mut brokers {
        object.remove(broker).await?;
    }
    let of_cluster = cluster.and_then(|cluster| cluster.status.as_ref());
    let servers = of_cluster.map_or(&site.name_servers, |status| &status.name_servers);
    for address in servers.iter().filter(|_| terms.placement.is_empty()) {
        let mut name_server = site.broker(address).await?;
        object
            .unroute(&mut name_server, site.cluster.as_deref())
            .await?;
    }
    tracing::info!(kind = %D::kind(&()), name = terms.wire, "removed from all brokers");
    Ok(None)
}
