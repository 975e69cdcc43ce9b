//! Where a Topic or ConsumerGroup lives: a BrokerCluster of its namespace, or any RocketMQ by the
//! addresses of its name servers. Exactly one of both, for good.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Broken, ensure};

/// A BrokerCluster in the same namespace.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub struct ClusterRef {
    /// Name of the BrokerCluster.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// A Secret in the same namespace.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub struct SecretRef {
    /// Name of the Secret. Its keys accessKey and secretKey sign what the operator asks of brokers.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The rules of the schema, in its order.
pub(crate) fn check(
    cluster: Option<&ClusterRef>,
    name_servers: Option<&[String]>,
    secret: Option<&SecretRef>,
) -> Result<(), Broken> {
    ensure(cluster.is_some() != name_servers.is_some(), EITHER)?;
    if let Some(list) = name_servers {
        let legal = (1..=8).contains(&list.len()) && list.iter().all(|a| is_address(a));
        ensure(legal, NAME_SERVERS)?;
    }
    ensure(secret.is_none() || name_servers.is_some(), SECRET)
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let v6 = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let in_v6 = |b: u8| b.is_ascii_hexdigit() || b == b':';
    let in_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
    let legal_host = v6.map_or(!host.is_empty() && host.bytes().all(in_name), |v6| {
        !v6.is_empty() && v6.bytes().all(in_v6)
    });
    let legal_port = (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
    text.len() <= 261 && legal_host && legal_port
}

/// Bounded in size, so that the API server can tell what the rule costs.
pub(crate) fn name_servers_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "nullable": true,
        "maxItems": 8,
        "items": {"type": "string", "maxLength": 261}
    })
}

pub(crate) const EITHER_RULE: &str = "has(self.clusterRef) != has(self.nameServers)";
pub(crate) const EITHER: &str = "set either clusterRef or nameServers";
pub(crate) const MOVED_RULE: &str = "has(self.clusterRef) == has(oldSelf.clusterRef)";
pub(crate) const MOVED: &str = "clusterRef and nameServers can not take each other's place";
pub(crate) const SECRET_RULE: &str = "!has(self.secretRef) || has(self.nameServers)";
pub(crate) const SECRET: &str = "secretRef goes with nameServers";
pub(crate) const NAME_SERVERS_RULE: &str = "self.size() >= 1 && self.all(s, \
     s.matches('^([a-zA-Z0-9.-]+|\\\\[[0-9a-fA-F:]+\\\\]):[0-9]{1,5}$'))";
pub(crate) const NAME_SERVERS: &str = "nameServers must be 1 to 8 addresses such as host:9876";
