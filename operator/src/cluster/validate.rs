//! A BrokerCluster whose rules hold, with every name that is derived from it.
//!
//! Everything after validation takes a [`ValidCluster`]; the raw resource is out of reach. Names
//! are decided here alone: builders, status and the admin calls ask the same functions.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crds::{Broken, BrokerCluster, BrokerClusterSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};

use crate::Options;

pub(crate) const REMOTING_PORT: u16 = 10911;
/// Where clients with `sendMessageWithVIPChannel` go: two below the port that the route names.
pub(crate) const VIP_PORT: u16 = REMOTING_PORT - 2;
pub(crate) const NAME_SERVER_PORT: u16 = 9876;
pub(crate) const HTTP_PORT: u16 = 5557;
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub(crate) const OPERATOR: &str = "gantry-operator";

pub(crate) type Labels = BTreeMap<String, String>;

#[derive(Debug, Clone)]
pub(crate) struct ValidCluster {
    pub(crate) name: String,
    pub(crate) namespace: String,
    /// Name on the wire.
    pub(crate) wire_name: String,
    pub(crate) owner: OwnerReference,
    pub(crate) spec: BrokerClusterSpec,
    pub(crate) image: String,
    pub(crate) domain: String,
    pub(crate) deletes_volumes: bool,
    /// ClusterIPs that messages already carry, by the name of their broker.
    pub(crate) remembered: BTreeMap<String, IpAddr>,
}

impl ValidCluster {
    pub(crate) fn new(cluster: &BrokerCluster, options: &Options) -> Result<Self, Broken> {
        cluster.validate()?;
        let owner = cluster.controller_owner_ref(&());
        let status = cluster.status.clone().unwrap_or_default();
        let remembered = status.groups.into_iter().filter_map(|group| {
            let address: SocketAddr = group.address.parse().ok()?;
            Some((group.name, address.ip()))
        });
        Ok(ValidCluster {
            name: cluster.name_any(),
            namespace: cluster.namespace().unwrap_or_default(),
            wire_name: cluster.wire_name(),
            owner: owner.ok_or(Broken("metadata.uid is missing"))?,
            image: cluster
                .spec
                .image
                .clone()
                .unwrap_or_else(|| options.image.clone()),
            domain: options.cluster_domain.clone(),
            deletes_volumes: cluster.deletes_volumes(),
            remembered: remembered.collect(),
            spec: cluster.spec.clone(),
        })
    }

    /// Numbers of the broker groups.
    pub(crate) fn groups(&self) -> std::ops::Range<i32> {
        0..self.spec.groups
    }

    pub(crate) fn account_name(&self) -> String {
        format!("{}-broker", self.name)
    }

    /// Name of a group's broker, of its StatefulSet, ConfigMap and headless Service.
    pub(crate) fn broker_name(&self, group: i32) -> String {
        format!("{}-broker-{group}", self.name)
    }

    /// Name of the Service, and of its one EndpointSlice, that clients of a group connect to.
    pub(crate) fn rw_name(&self, group: i32) -> String {
        format!("{}-broker-{group}-rw", self.name)
    }

    pub(crate) fn name_server_name(&self) -> String {
        Self::name_server_service(&self.name)
    }

    /// Name of the Service of the name servers of a cluster.
    pub(crate) fn name_server_service(cluster: &str) -> String {
        format!("{cluster}-namesrv")
    }

    /// Name of the headless Service of the name servers.
    pub(crate) fn name_server_pods_name(&self) -> String {
        format!("{}-namesrv-pods", self.name)
    }

    /// A Service's name as every client of the Kubernetes cluster can resolve it.
    pub(crate) fn host(&self, service: &str) -> String {
        format!("{service}.{}.svc.{}", self.namespace, self.domain)
    }

    /// Addresses of the single name servers.
    pub(crate) fn name_servers(&self) -> Vec<String> {
        let (set, pods) = (self.name_server_name(), self.name_server_pods_name());
        let address = |i| format!("{set}-{i}.{}:{NAME_SERVER_PORT}", self.host(&pods));
        (0..self.spec.name_server.replicas).map(address).collect()
    }

    /// Address that clients are told for a group.
    pub(crate) fn advertised(&self, group: i32) -> String {
        format!("{}:{REMOTING_PORT}", self.host(&self.rw_name(group)))
    }

    /// Labels that select the pods of a part of the cluster.
    pub(crate) fn selector(&self, part: Part) -> Labels {
        let mut labels = BTreeMap::from([
            ("app.kubernetes.io/name".to_owned(), "gantry".to_owned()),
            ("app.kubernetes.io/instance".to_owned(), self.name.clone()),
            (
                "app.kubernetes.io/component".to_owned(),
                part.component().to_owned(),
            ),
        ]);
        if let Part::Group(group) = part {
            labels.insert("gantry.dev/group".to_owned(), group.to_string());
        }
        labels
    }

    /// All labels of an object of a part.
    pub(crate) fn labels(&self, part: Part) -> Labels {
        let mut labels = self.selector(part);
        labels.insert(MANAGED_BY.to_owned(), OPERATOR.to_owned());
        labels
    }

    pub(crate) fn metadata(&self, name: String, part: Part) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.clone()),
            labels: Some(self.labels(part)),
            owner_references: Some(vec![self.owner.clone()]),
            ..ObjectMeta::default()
        }
    }

    pub(crate) fn label_selector(&self, part: Part) -> LabelSelector {
        LabelSelector {
            match_labels: Some(self.selector(part)),
            ..LabelSelector::default()
        }
    }
}

/// The parts of a cluster that objects belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    NameServers,
    /// All broker groups.
    Brokers,
    Group(i32),
}

impl Part {
    fn component(self) -> &'static str {
        match self {
            Part::NameServers => "namesrv",
            Part::Brokers | Part::Group(_) => "broker",
        }
    }
}

/// Labels as a selector in text.
pub(crate) fn as_text(labels: &Labels) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}
