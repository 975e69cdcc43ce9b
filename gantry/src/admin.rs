//! The admin protocol as the commands use it: a name server, the masters it knows, one call at a
//! time. It is RocketMQ's own, so the commands work on a Java cluster too.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use net::Connection;
use net::client::CallError;
use protocol::body::{ClusterInfo, TopicRouteData};
use protocol::header::{Empty, RouteOf};
use protocol::json::from_fastjson;
use protocol::{Frame, Header, RequestCode};
use serde::de::DeserializeOwned;

/// How long an administrator's call may take.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(5);

/// What every command of the admin tool is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    /// `host:port` of a name server; several are separated by `;`, and the first that answers
    /// is asked.
    #[arg(long, env = "NAMESRV_ADDR", default_value = "127.0.0.1:9876")]
    pub(crate) name_server: String,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t = super::output::Format::Table)]
    pub(crate) output: super::output::Format,
}

/// A broker group's master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Master {
    pub(crate) cluster: String,
    pub(crate) name: String,
    pub(crate) address: String,
}

impl Common {
    pub(crate) fn name_servers(&self) -> impl Iterator<Item = &str> {
        self.name_server
            .split(';')
            .map(str::trim)
            .filter(|a| !a.is_empty())
    }

    /// Asks the first name server that can be reached.
    async fn ask_names(&self, request: Frame) -> anyhow::Result<Frame> {
        let mut unreachable = None;
        for address in self.name_servers() {
            match ask(address, request.clone()).await {
                Err(error @ (CallError::Io { .. } | CallError::TimedOut { .. })) => {
                    unreachable = Some(error);
                }
                answer => return Ok(answer?),
            }
        }
        Err(unreachable.context("--name-server is empty")?.into())
    }

    /// Where a topic's queues are.
    pub(crate) async fn route(&self, topic: &str) -> anyhow::Result<TopicRouteData> {
        let header = RouteOf {
            topic: topic.to_owned(),
            strict_json: Some(true),
        };
        let request = Frame::request(RequestCode::GetRouteinfoByTopic, &header);
        let answer = self.ask_names(request).await?;
        from_fastjson(&answer.body).with_context(|| format!("the route of {topic}"))
    }

    pub(crate) async fn clusters(&self) -> anyhow::Result<ClusterInfo> {
        let request = Frame::request(RequestCode::GetBrokerClusterInfo, &Empty);
        let answer = self.ask_names(request).await?;
        from_fastjson(&answer.body).context("the clusters")
    }

    /// Every master; of one cluster where one is named.
    pub(crate) async fn masters(&self, cluster: Option<&str>) -> anyhow::Result<Vec<Master>> {
        let info = self.clusters().await?;
        let mut masters = Vec::new();
        for (name, data) in info.broker_addr_table {
            let wanted = cluster.is_none_or(|cluster| cluster == data.cluster);
            if let Some(address) = data.broker_addrs.get(&0).filter(|_| wanted) {
                masters.push(Master {
                    cluster: data.cluster,
                    name,
                    address: address.clone(),
                });
            }
        }
        if masters.is_empty() {
            bail!("{} has no master", cluster.unwrap_or("the name server"));
        }
        Ok(masters)
    }

    /// The masters that something is to be created on: those of the cluster that is named, or of
    /// the only one there is.
    pub(crate) async fn one_cluster(&self, cluster: Option<&str>) -> anyhow::Result<Vec<Master>> {
        let masters = self.masters(cluster).await?;
        let mut clusters: Vec<&str> = masters.iter().map(|m| m.cluster.as_str()).collect();
        clusters.dedup();
        clusters.sort_unstable();
        clusters.dedup();
        if clusters.len() > 1 {
            bail!("say which --cluster: there are {}", clusters.join(", "));
        }
        Ok(masters)
    }

    /// The masters that have queues of a topic.
    pub(crate) async fn masters_of(&self, topic: &str) -> anyhow::Result<Vec<Master>> {
        let route = self.route(topic).await?;
        let masters = route.broker_datas.into_iter().filter_map(|data| {
            Some(Master {
                address: data.broker_addrs.get(&0)?.clone(),
                cluster: data.cluster,
                name: data.broker_name,
            })
        });
        Ok(masters.collect())
    }
}

/// One call on a connection of its own; any code other than success is an error.
pub(crate) async fn ask(address: &str, request: Frame) -> Result<Frame, CallError> {
    let mut connection = Connection::open(address, CALL_MAX).await?;
    connection.ask(request, CALL_MAX).await
}

/// A call whose answer has a body; the codes in `none` say that there is nothing.
pub(crate) async fn fetch<T: DeserializeOwned>(
    address: &str,
    code: RequestCode,
    header: &impl Header,
    none: &[i32],
) -> anyhow::Result<Option<T>> {
    match ask(address, Frame::request(code, header)).await {
        Ok(answer) => {
            let body = from_fastjson(&answer.body);
            Ok(Some(
                body.with_context(|| format!("the answer of {address}"))?,
            ))
        }
        Err(CallError::Refused { code, .. }) if none.contains(&code) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The runtime table of a broker.
pub(crate) async fn runtime(address: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let code = RequestCode::GetBrokerRuntimeInfo;
    let table: Option<protocol::body::KvTable> = fetch(address, code, &Empty, &[]).await?;
    Ok(table.unwrap_or_default().table)
}
