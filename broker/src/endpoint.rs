//! The cluster's Service points at this broker: its `EndpointSlice`, which the operator made
//! empty, is written here and looked at every few seconds.
//!
//! The slice carries the epoch of its writer. A lower epoch never overwrites a higher one, and
//! every write names the version it read, so that two brokers can't undo each other.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::api::{Api, PostParams};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::Kubernetes;

const EPOCH: &str = "gantry.dev/epoch";
const CHECK_EVERY: Duration = Duration::from_secs(5);
const RETRY_AFTER: Duration = Duration::from_secs(1);
const CALL_MAX: Duration = Duration::from_secs(5);

/// Where this broker can be reached, and since when it says so.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub pod_ip: IpAddr,
    pub port: u16,
    pub vip_port: Option<u16>,
    pub epoch: u64,
}

#[derive(Debug, thiserror::Error)]
enum EndpointError {
    #[error("{0}")]
    Kube(#[from] kube::Error),
    #[error("the API server did not answer in {CALL_MAX:?}")]
    TimedOut,
    #[error("epoch {theirs} has the endpoint, this is epoch {ours}")]
    Deposed { ours: u64, theirs: u64 },
}

/// Keeps the slice pointing here until `stop`.
pub async fn run(kubernetes: Kubernetes, place: Place, stop: CancellationToken) {
    let mut failing = false;
    let mut slices = None;
    loop {
        let wait = match timeout(CALL_MAX, point(&mut slices, &kubernetes, place))
            .await
            .unwrap_or(Err(EndpointError::TimedOut))
        {
            Ok(written) => {
                if std::mem::take(&mut failing) || written {
                    tracing::info!(slice = kubernetes.endpoint_slice, "the Service points here");
                }
                CHECK_EVERY
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, slice = kubernetes.endpoint_slice, "not written");
                }
                RETRY_AFTER
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Writes the slice where it says something else; `true` when it was written.
async fn point(
    slices: &mut Option<Api<EndpointSlice>>,
    kubernetes: &Kubernetes,
    place: Place,
) -> Result<bool, EndpointError> {
    let slices = match slices {
        Some(slices) => slices,
        none => {
            let client = kube::Client::try_default().await?;
            none.insert(Api::namespaced(client, &kubernetes.namespace))
        }
    };
    let name = &kubernetes.endpoint_slice;
    let Some(slice) = pointed(slices.get(name).await?, place)? else {
        return Ok(false);
    };
    slices.replace(name, &PostParams::default(), &slice).await?;
    Ok(true)
}

/// The slice as it must be; `None` when it is.
fn pointed(slice: EndpointSlice, place: Place) -> Result<Option<EndpointSlice>, EndpointError> {
    let annotations = slice.metadata.annotations.clone().unwrap_or_default();
    let theirs = annotations
        .get(EPOCH)
        .and_then(|epoch| epoch.parse().ok())
        .unwrap_or(0);
    if theirs > place.epoch {
        return Err(EndpointError::Deposed {
            ours: place.epoch,
            theirs,
        });
    }
    let mut pointed = slice.clone();
    let annotations: &mut BTreeMap<String, String> =
        pointed.metadata.annotations.get_or_insert_default();
    annotations.insert(EPOCH.to_owned(), place.epoch.to_string());
    pointed.endpoints = vec![Endpoint {
        addresses: vec![place.pod_ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(true),
            serving: Some(true),
            terminating: Some(false),
        }),
        ..Endpoint::default()
    }];
    let ports = [("remoting", Some(place.port)), ("vip", place.vip_port)];
    let ports = ports.into_iter().filter_map(|(name, port)| {
        Some(EndpointPort {
            name: Some(name.to_owned()),
            port: Some(i32::from(port?)),
            protocol: Some("TCP".to_owned()),
            ..EndpointPort::default()
        })
    });
    pointed.ports = Some(ports.collect());
    Ok((pointed != slice).then_some(pointed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_epoch_never_overwrites_a_higher_one() {
        let place = |epoch| Place {
            pod_ip: [10, 0, 0, 7].into(),
            port: 10_911,
            vip_port: Some(10_909),
            epoch,
        };
        let empty = EndpointSlice {
            address_type: "IPv4".into(),
            ..EndpointSlice::default()
        };
        let first = pointed(empty, place(2)).expect("free").expect("written");
        assert_eq!(first.endpoints[0].addresses, ["10.0.0.7"]);
        assert_eq!(
            pointed(first.clone(), place(2)).expect("ours"),
            None,
            "nothing to write"
        );
        let next = pointed(first.clone(), place(3))
            .expect("newer")
            .expect("written");
        assert_eq!(next.metadata.annotations.expect("set")[EPOCH], "3");
        let error = pointed(first, place(1)).expect_err("deposed").to_string();
        assert_eq!(error, "epoch 2 has the endpoint, this is epoch 1");
    }
}
