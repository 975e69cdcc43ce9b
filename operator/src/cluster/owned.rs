//! What a BrokerCluster owns, as the API server has it: read once a reconcile, settled object by
//! object; what is left then is deleted.

use std::net::SocketAddr;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};

use super::build;
use super::observe::template_size;
use super::validate::{MANAGED_BY, OPERATOR, Part, ValidCluster, as_text};
use crate::apply::Live;
use crate::{Error, Operator};

#[derive(Debug)]
pub(super) struct Owned {
    accounts: Live<ServiceAccount>,
    roles: Live<Role>,
    bindings: Live<RoleBinding>,
    services: Live<Service>,
    /// Written by brokers; they go with their cluster.
    pub(super) slices: Live<EndpointSlice>,
    configs: Live<ConfigMap>,
    budgets: Live<PodDisruptionBudget>,
    policies: Live<NetworkPolicy>,
    sets: Live<StatefulSet>,
}

impl Owned {
    pub(super) async fn read(operator: &Operator, valid: &ValidCluster) -> Result<Self, Error> {
        let mut labels = valid.labels(Part::Brokers);
        labels.retain(|key, _| key == "app.kubernetes.io/instance" || key == MANAGED_BY);
        debug_assert_eq!(labels.get(MANAGED_BY).map(String::as_str), Some(OPERATOR));
        let (namespace, labels) = (&valid.namespace, &as_text(&labels));
        let uid = &valid.owner.uid;
        Ok(Owned {
            accounts: operator.live(namespace, labels, uid).await?,
            roles: operator.live(namespace, labels, uid).await?,
            bindings: operator.live(namespace, labels, uid).await?,
            services: operator.live(namespace, labels, uid).await?,
            slices: operator.live(namespace, labels, uid).await?,
            configs: operator.live(namespace, labels, uid).await?,
            budgets: operator.live(namespace, labels, uid).await?,
            policies: operator.live(namespace, labels, uid).await?,
            sets: operator.live(namespace, labels, uid).await?,
        })
    }

    /// What all brokers have in common.
    pub(super) async fn settle_shared(
        &mut self,
        operator: &Operator,
        valid: &ValidCluster,
    ) -> Result<(), Error> {
        let account = build::service_account(valid);
        operator.settle(&mut self.accounts, account).await?;
        operator.settle(&mut self.roles, build::role(valid)).await?;
        let binding = build::role_binding(valid);
        operator.settle(&mut self.bindings, binding).await?;
        if valid.spec.network_policy.enabled {
            for part in [Part::NameServers, Part::Brokers] {
                let policy = build::network_policy(valid, part);
                operator.settle(&mut self.policies, policy).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn settle_name_servers(
        &mut self,
        operator: &Operator,
        valid: &ValidCluster,
    ) -> Result<StatefulSet, Error> {
        let services = &mut self.services;
        operator
            .settle(services, build::name_server_pods(valid))
            .await?;
        operator
            .settle(services, build::name_server_service(valid))
            .await?;
        let budget = build::budget(valid, Part::NameServers);
        operator.settle(&mut self.budgets, budget).await?;
        let set = build::name_server_set(valid);
        operator.settle(&mut self.sets, set).await
    }

    /// The Services of a group; returns the one that clients connect to.
    pub(super) async fn settle_services(
        &mut self,
        operator: &Operator,
        valid: &ValidCluster,
        group: i32,
    ) -> Result<Service, Error> {
        let services = &mut self.services;
        operator
            .settle(services, build::broker_service(valid, group))
            .await?;
        operator
            .settle(services, build::rw_service(valid, group))
            .await
    }

    /// The broker of a group, with its configuration.
    pub(super) async fn settle_broker(
        &mut self,
        operator: &Operator,
        valid: &ValidCluster,
        group: i32,
        store_host: SocketAddr,
    ) -> Result<StatefulSet, Error> {
        let config = build::config_map(valid, group, store_host);
        operator.settle(&mut self.configs, config.clone()).await?;
        let budget = build::budget(valid, Part::Group(group));
        operator.settle(&mut self.budgets, budget).await?;
        let found = self.sets.get(&valid.broker_name(group));
        let size = found.and_then(template_size);
        let size = size.unwrap_or_else(|| valid.spec.storage.size.clone());
        let set = build::broker_set(valid, group, &config, &size);
        operator.settle(&mut self.sets, set).await
    }

    /// Deletes what was not settled. Groups only grow, so that no set of a broker is among it.
    pub(super) async fn drop_orphans(self, operator: &Operator) -> Result<(), Error> {
        operator.drop_orphans(self.policies).await?;
        operator.drop_orphans(self.budgets).await?;
        operator.drop_orphans(self.sets).await?;
        operator.drop_orphans(self.configs).await?;
        operator.drop_orphans(self.services).await?;
        operator.drop_orphans(self.bindings).await?;
        operator.drop_orphans(self.roles).await?;
        operator.drop_orphans(self.accounts).await
    }
}
