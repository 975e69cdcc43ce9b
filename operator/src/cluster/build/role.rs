//! What a broker may do in the Kubernetes API: write the addresses of its own cluster's groups,
//! each by name, and nothing else.

use k8s_openapi::api::rbac::v1::{PolicyRule, Role};

use crate::cluster::validate::{Part, ValidCluster};

pub(crate) fn role(cluster: &ValidCluster) -> Role {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let slices = PolicyRule {
        api_groups: Some(words(&["discovery.k8s.io"])),
        resources: Some(words(&["endpointslices"])),
        resource_names: Some(
            cluster
                .groups()
                .map(|group| cluster.rw_name(group))
                .collect(),
        ),
        verbs: words(&["get", "update", "patch"]),
        ..PolicyRule::default()
    };
    Role {
        metadata: cluster.metadata(cluster.account_name(), Part::Brokers),
        rules: Some(vec![slices]),
    }
}
