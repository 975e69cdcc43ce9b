//! Where a resource lives: the name servers, the brokers and what signs the calls to them.
//!
//! Many resources live in one place. What is learnt of it is kept for some seconds, and so is the
//! list of all that a broker has: thousands of resources that are as they should be are compared
//! with it, and only what differs is asked for by name.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crds::BrokerCluster;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::{Client, ResourceExt};
use protocol::acl::Credentials;
use protocol::body::ClusterInfo;
use protocol::{Frame, RequestCode, header, json};

use super::plan::Terms;
use crate::admin::{self, Admin, Caller};
use crate::cluster::{NAME_SERVER_PORT, ValidCluster};
use crate::{Error, Operator};

const SITE_AGE_MAX: Duration = Duration::from_secs(5);
const LIST_AGE_MAX: Duration = Duration::from_secs(8);
/// While a list is read anew, the old one serves so long.
const LIST_STALE_MAX: Duration = Duration::from_secs(12);
/// What nobody has asked for is forgotten.
const IDLE_MAX: Duration = Duration::from_mins(2);

#[derive(Debug)]
pub(crate) struct Site {
    /// Name of the cluster on the wire, if there is only one to look at.
    pub cluster: Option<String>,
    pub name_servers: Vec<String>,
    /// Name and address.
    pub brokers: BTreeMap<String, String>,
    caller: Caller,
}

/// The same for all resources that speak of the same brokers.
pub(crate) fn key(namespace: &str, terms: &Terms<'_>) -> String {
    if let Some(cluster) = terms.cluster {
        return format!("{namespace}/{cluster}");
    }
    let mut servers = terms.name_servers.to_vec();
    servers.sort_unstable();
    servers.join(";")
}

impl Site {
    pub(crate) async fn broker(&self, address: &str) -> Result<Admin, Error> {
        Admin::open(address, &self.caller).await
    }

    /// The first name server that can be reached.
    pub(crate) async fn name_server(&self) -> Result<Admin, Error> {
        open_any(&self.name_servers, &self.caller).await
    }

    /// The brokers that a resource is for, and names of those that are not there.
    pub(crate) fn placed<'a>(
        &'a self,
        placement: &'a [String],
    ) -> (Vec<(&'a str, &'a str)>, Vec<&'a str>) {
        let wanted = |name: &String| placement.is_empty() || placement.contains(name);
        let brokers = self.brokers.iter().filter(|(name, _)| wanted(name));
        let absent = placement
            .iter()
            .filter(|name| !self.brokers.contains_key(*name));
        (
            brokers.map(|(n, a)| (n.as_str(), a.as_str())).collect(),
            absent.map(String::as_str).collect(),
        )
    }

    /// Reads from the name servers which brokers there are.
    async fn read(
        cluster: Option<String>,
        name_servers: Vec<String>,
        expected: BTreeMap<String, String>,
        caller: Caller,
    ) -> Result<Self, Error> {
        let mut brokers = expected;
        let mut name_server = open_any(&name_servers, &caller).await?;
        let request = Frame::request(RequestCode::GetBrokerClusterInfo, &header::Empty);
        let answer = name_server.ask(request).await?;
        let info: ClusterInfo =
            json::from_fastjson(&answer.body).map_err(|error| Error::Answer {
                address: name_servers.join(", "),
                reason: error.to_string(),
            })?;
        for (name, registered) in info.broker_addr_table {
            let ours = cluster
                .as_ref()
                .is_none_or(|ours| registered.cluster == *ours);
            if let Some(master) = registered.broker_addrs.get(&0).filter(|_| ours) {
                brokers.insert(name, master.clone());
            }
        }
        Ok(Site {
            cluster,
            name_servers,
            brokers,
            caller,
        })
    }
}

async fn open_any(addresses: &[String], caller: &Caller) -> Result<Admin, Error> {
    let mut last = Error::NoAddress("of the name servers".to_owned());
    for address in addresses {
        match Admin::open(address, caller).await {
            Ok(admin) => return Ok(admin),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What is known of the places of one kind's resources.
#[derive(Debug)]
pub(crate) struct Sites<C> {
    sites: Mutex<HashMap<String, (Instant, Arc<Site>)>>,
    lists: Mutex<HashMap<Asked, List<C>>>,
}

/// A broker, and who asks it: what one may see, another may not.
type Asked = (String, Option<Credentials>);

#[derive(Debug)]
struct List<C> {
    asked: Instant,
    read: Option<(Instant, Arc<BTreeMap<String, C>>)>,
}

impl<C> Default for Sites<C> {
    fn default() -> Self {
        Sites {
            sites: Mutex::default(),
            lists: Mutex::default(),
        }
    }
}

impl<C> Sites<C> {
    pub(crate) async fn find(
        &self,
        operator: &Operator,
        namespace: &str,
        terms: &Terms<'_>,
        cluster: Option<&BrokerCluster>,
    ) -> Result<Arc<Site>, Error> {
        let key = format!(
            "{namespace} {} {}",
            terms.secret.unwrap_or_default(),
            key(namespace, terms)
        );
        let known = lock(&self.sites)
            .get(&key)
            .filter(|(at, _)| at.elapsed() < SITE_AGE_MAX)
            .map(|(_, site)| Arc::clone(site));
        if let Some(site) = known {
            return Ok(site);
        }
        let caller = |credentials| Caller {
            credentials,
            leader: Arc::clone(&operator.leader),
            metrics: operator.metrics.clone(),
        };
        let site = if let Some(cluster) = cluster {
            let groups = cluster.status.iter().flat_map(|status| &status.groups);
            let expected = groups.map(|group| (group.name.clone(), group.address.clone()));
            let dir = operator.options.credentials_dir.as_deref();
            let caller = caller(admin::credentials(dir).await?);
            let (name, servers) = (cluster.wire_name(), vec![name_server(operator, cluster)]);
            Site::read(Some(name), servers, expected.collect(), caller).await?
        } else {
            let caller = caller(secret(&operator.client, namespace, terms.secret).await?);
            let servers = terms.name_servers.to_vec();
            Site::read(None, servers, BTreeMap::new(), caller).await?
        };
        let site = Arc::new(site);
        let mut sites = lock(&self.sites);
        sites.retain(|_, (at, _)| at.elapsed() < IDLE_MAX);
        sites.insert(key, (Instant::now(), Arc::clone(&site)));
        Ok(site)
    }

    /// All that a broker has, some seconds old; None while it is not known.
    pub(crate) async fn list<F>(
        &self,
        site: &Site,
        address: &str,
        read: impl FnOnce() -> F,
    ) -> Option<Arc<BTreeMap<String, C>>>
    where
        F: Future<Output = Result<BTreeMap<String, C>, Error>>,
    {
        let key = (address.to_owned(), site.caller.credentials.clone());
        {
            let mut lists = lock(&self.lists);
            lists.retain(|_, list| list.asked.elapsed() < IDLE_MAX);
            let known = lists.get(&key);
            let read = known.and_then(|list| list.read.as_ref());
            let at_most = |age: Duration| read.filter(|(at, _)| at.elapsed() < age);
            if let Some((_, list)) = at_most(LIST_AGE_MAX) {
                return Some(Arc::clone(list));
            }
            // One of them asks, the others go on with what there is.
            if known.is_some_and(|list| list.asked.elapsed() < LIST_AGE_MAX) {
                return at_most(LIST_STALE_MAX).map(|(_, list)| Arc::clone(list));
            }
            let read = read.cloned();
            let asked = Instant::now();
            lists.insert(key.clone(), List { asked, read });
        }
        let list = Arc::new(read().await.ok()?);
        let read = Some((Instant::now(), Arc::clone(&list)));
        let asked = Instant::now();
        lock(&self.lists).insert(key, List { asked, read });
        Some(list)
    }
}

/// The address of a cluster's name servers, any of them.
fn name_server(operator: &Operator, cluster: &BrokerCluster) -> String {
    let namespace = cluster.namespace().unwrap_or_default();
    let service = ValidCluster::name_server_service(&cluster.name_any());
    let domain = &operator.options.cluster_domain;
    format!("{service}.{namespace}.svc.{domain}:{NAME_SERVER_PORT}")
}

async fn secret(
    client: &Client,
    namespace: &str,
    name: Option<&str>,
) -> Result<Option<Credentials>, Error> {
    let Some(name) = name else {
        return Ok(None);
    };
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = secrets.get_opt(name).await.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 403 => {
            Error::SecretForbidden(format!("{namespace}/{name}"))
        }
        error => Error::Read(error),
    })?;
    let data = found.and_then(|secret| secret.data).unwrap_or_default();
    let word = |key: &str| {
        let text = data.get(key).map(|bytes| bytes.0.clone());
        text.and_then(|bytes| String::from_utf8(bytes).ok())
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
            .ok_or_else(|| Error::NoCredentials(format!("{namespace}/{name}")))
    };
    Ok(Some(Credentials {
        access_key: word("accessKey")?,
        secret_key: word("secretKey")?,
    }))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
