//! How many pods of a part a drain may take at once: one. A single replica may go too, since a
//! node that can never be drained helps nobody.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cluster::validate::{Part, ValidCluster};

pub(crate) fn budget(cluster: &ValidCluster, part: Part) -> PodDisruptionBudget {
    let name = match part {
        Part::NameServers => cluster.name_server_name(),
        Part::Brokers => cluster.account_name(),
        Part::Group(group) => cluster.broker_name(group),
    };
    PodDisruptionBudget {
        metadata: cluster.metadata(name, part),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(cluster.label_selector(part)),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
