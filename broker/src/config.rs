//! The broker's configuration: one YAML file. Unknown keys are errors that name key and line.

mod properties;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use net::tls::TlsError;
use net::{Network, PemFiles, TlsMode};
use protocol::topic::validate_topic;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

pub use properties::{Live, Properties};

use crate::retain::Rules;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    pub cluster: String,
    /// Name of the broker group, on the wire and in the store.
    pub broker: String,
    pub data_dir: PathBuf,
    pub listen: Listen,
    /// `host:port` that clients are told to connect to.
    pub advertise: String,
    /// Address that stands in every record and message id.
    pub store_host: SocketAddr,
    /// `host:port`, or `tls://host:port` of those that take nothing else.
    #[serde(default)]
    pub name_servers: Vec<String>,
    #[serde(default)]
    pub flush: Flush,
    /// Create a topic at the first send to it.
    #[serde(default)]
    pub auto_create_topics: bool,
    /// Length of a log segment, fixed when the store is created; absent: by the volume's size.
    #[serde(default)]
    pub segment_bytes: Option<u64>,
    /// How long messages are kept, such as `72h` or `90s`; absent: `fileReservedTime`.
    #[serde(default, deserialize_with = "time_span")]
    pub retention: Option<Duration>,
    /// Above it, log files go early that every group has consumed.
    #[serde(default = "percent::<75>")]
    pub disk_used_percent_clean: u8,
    /// Above it, sends are refused.
    #[serde(default = "percent::<90>")]
    pub disk_used_percent_reject: u8,
    /// Above it, log files go early that somebody has still to consume.
    #[serde(default)]
    pub delete_unconsumed_when_full: bool,
    #[serde(default)]
    pub limits: Limits,
    /// RocketMQ's own broker properties, as far as they mean something here.
    #[serde(default)]
    pub properties: Properties,
    #[serde(default)]
    pub kubernetes: Option<Kubernetes>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listen {
    pub remoting: SocketAddr,
    /// Metrics and probes.
    pub http: SocketAddr,
    /// Serve remoting two ports below as well, where clients with `sendMessageWithVIPChannel` go.
    #[serde(default = "yes")]
    pub vip: bool,
    #[serde(default)]
    pub tls: Tls,
    /// Load balancers whose word about the client's address is believed.
    #[serde(default, deserialize_with = "networks")]
    pub proxy_protocol_from: Vec<Network>,
}

impl Listen {
    pub fn vip_address(&self) -> Option<SocketAddr> {
        let port = self.remoting.port().checked_sub(2).filter(|port| *port > 0);
        let port = port.filter(|_| self.vip)?;
        Some(SocketAddr::new(self.remoting.ip(), port))
    }
}

fn yes() -> bool {
    true
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    #[serde(default, deserialize_with = "parsed")]
    pub mode: TlsMode,
    /// A certificate chain, PEM; absent: one is made at each start.
    #[serde(default)]
    pub cert_path: Option<PathBuf>,
    #[serde(default)]
    pub key_path: Option<PathBuf>,
}

impl Tls {
    pub fn open(&self) -> Result<net::Tls, TlsError> {
        let files = self.cert_path.clone().zip(self.key_path.clone());
        let files = files.map(|(certificate, key)| PemFiles { certificate, key });
        net::Tls::open(self.mode, files.as_ref())
    }
}

fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse()
        .map_err(|error| D::Error::custom(format!("{text:?}: {error}")))
}

fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Network>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let parsed = texts.iter().map(|text| text.parse());
    parsed.collect::<Result<_, _>>().map_err(D::Error::custom)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Flush {
    /// A send is acknowledged when it is on disk.
    Sync,
    /// A send is acknowledged when the kernel has it: it survives the process, not the machine.
    #[default]
    Async,
}

/// The `EndpointSlice` that the broker points at itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kubernetes {
    pub namespace: String,
    pub endpoint_slice: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    pub connections_max: usize,
    pub connections_per_address_max: usize,
    pub idle_seconds_max: u64,
    /// From a frame's first byte to its last.
    pub frame_seconds_max: u64,
    /// For a PROXY header, and for a TLS handshake.
    pub handshake_seconds_max: u64,
    /// Bytes that may wait until a client reads them.
    pub write_bytes_max: usize,
    /// Sends that may wait for the log.
    pub append_queue_max: usize,
    /// Pulls that may be held until a message arrives.
    pub held_pulls_max: usize,
    /// Series of a metric by topic, or by topic and group; the rest is summed as `other`.
    pub metric_series_max: usize,
}

/// Series that a monitoring system still takes from one broker at each scrape.
const METRIC_SERIES_MAX: usize = 10_000;

impl Default for Limits {
    fn default() -> Self {
        let net = net::Limits::default();
        Self {
            connections_max: net.connections_max,
            connections_per_address_max: net.connections_per_address_max,
            idle_seconds_max: net.idle_max.as_secs(),
            frame_seconds_max: net.frame_time_max.as_secs(),
            handshake_seconds_max: net.handshake_time_max.as_secs(),
            write_bytes_max: net.write_bytes_max,
            append_queue_max: 10_000,
            held_pulls_max: 100_000,
            metric_series_max: METRIC_SERIES_MAX,
        }
    }
}

impl Limits {
    pub fn net(&self) -> net::Limits {
        net::Limits {
            connections_max: self.connections_max,
            connections_per_address_max: self.connections_per_address_max,
            idle_max: Duration::from_secs(self.idle_seconds_max),
            frame_time_max: Duration::from_secs(self.frame_seconds_max),
            handshake_time_max: Duration::from_secs(self.handshake_seconds_max),
            write_bytes_max: self.write_bytes_max,
            ..net::Limits::default()
        }
    }
}

/// Why a configuration can't be used; the text names the key, and the line where YAML knows it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration {path} can't be read: {error}")]
    Read {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("the configuration {path} is wrong: {error}")]
    Yaml {
        path: PathBuf,
        error: serde_yaml::Error,
    },
    #[error("the configuration {path} is wrong: {key}: {reason}")]
    Value {
        path: PathBuf,
        key: &'static str,
        reason: String,
    },
}

impl Config {
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read {
            path: path.to_owned(),
            error,
        })?;
        Self::parse(&text, path)
    }

    /// Parses a configuration; `path` is for the error's text.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = serde_yaml::from_str(text).map_err(|error| ConfigError::Yaml {
            path: path.to_owned(),
            error,
        })?;
        config.check().map_err(|(key, reason)| ConfigError::Value {
            path: path.to_owned(),
            key,
            reason,
        })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        for (key, name) in [("cluster", &self.cluster), ("broker", &self.broker)] {
            validate_topic(name).map_err(|error| (key, error.to_string()))?;
        }
        let tls = &self.listen.tls;
        if tls.cert_path.is_some() != tls.key_path.is_some() {
            return Err(("listen.tls", "certPath and keyPath go together".into()));
        }
        let distinct: BTreeSet<&String> = self.name_servers.iter().collect();
        if distinct.len() != self.name_servers.len() {
            return Err(("nameServers", "an address stands there twice".into()));
        }
        let addresses = std::iter::once(("advertise", &self.advertise)).chain(
            self.name_servers
                .iter()
                .map(|address| ("nameServers", address)),
        );
        for (key, address) in addresses {
            let port = address
                .rsplit_once(':')
                .and_then(|(_, port)| port.parse::<u16>().ok());
            let wrong_scheme = key == "advertise" && address.contains("//");
            if port.is_none_or(|port| port == 0) || wrong_scheme {
                return Err((key, format!("{address:?} is no host:port")));
            }
        }
        if self.store_host.ip().is_unspecified() {
            return Err((
                "storeHost",
                format!("{} is no address of a host", self.store_host),
            ));
        }
        self.check_retention()?;
        let properties = &self.properties;
        if !(1..=1024).contains(&properties.default_topic_queue_nums) {
            return Err(("properties.defaultTopicQueueNums", "1 to 1024".into()));
        }
        if !(1..=4 * 1024 * 1024).contains(&properties.max_message_size) {
            return Err(("properties.maxMessageSize", "1 to 4194304 bytes".into()));
        }
        if !(1_000..=60_000).contains(&properties.register_name_server_period) {
            return Err((
                "properties.registerNameServerPeriod",
                "1000 to 60000 ms".into(),
            ));
        }
        Ok(())
    }
}

impl Config {
    fn check_retention(&self) -> Result<(), (&'static str, String)> {
        if !(1..=HOURS_MAX).contains(&self.properties.file_reserved_time) {
            let reason = format!("1 to {HOURS_MAX} hours");
            return Err(("properties.fileReservedTime", reason));
        }
        let (clean, reject) = (self.disk_used_percent_clean, self.disk_used_percent_reject);
        if !(1..=100).contains(&reject) {
            return Err(("diskUsedPercentReject", "1 to 100".into()));
        }
        if !(1..=reject).contains(&clean) {
            let reason = format!("1 to diskUsedPercentReject, {reject}");
            return Err(("diskUsedPercentClean", reason));
        }
        Ok(())
    }

    pub(crate) fn retention_rules(&self) -> Rules {
        let hours = Duration::from_hours(self.properties.file_reserved_time);
        Rules {
            keep: self.retention.unwrap_or(hours),
            clean_percent: self.disk_used_percent_clean,
            reject_percent: self.disk_used_percent_reject,
            delete_unconsumed: self.delete_unconsumed_when_full,
        }
    }
}

/// A hundred years.
const HOURS_MAX: u64 = 876_000;

fn percent<const PERCENT: u8>() -> u8 {
    PERCENT
}

/// `90s`, `15m`, `72h` or `3d`.
fn time_span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let parsed = text.char_indices().next_back().and_then(|(at, unit)| {
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return None,
        };
        let count: u64 = text.get(..at)?.parse().ok()?;
        count.checked_mul(seconds)
    });
    match parsed {
        Some(seconds) if (1..=HOURS_MAX * 3_600).contains(&seconds) => {
            Ok(Some(Duration::from_secs(seconds)))
        }
        _ => Err(D::Error::custom(format!(
            "retention: {text:?} is no time such as 90s, 15m, 72h or 3d"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
cluster: c
broker: b
dataDir: /data
listen: {remoting: '0.0.0.0:10911', http: '0.0.0.0:5557'}
advertise: broker:10911
storeHost: 10.0.0.1:10911
nameServers: [a:9876]
flush: sync
properties: {defaultTopicQueueNums: '4', maxMessageSize: 1024}
";

    #[test]
    fn a_configuration_is_read() {
        let config = Config::parse(GOOD, Path::new("broker.yaml")).expect("good");
        assert_eq!(config.flush, Flush::Sync);
        assert_eq!(config.properties.default_topic_queue_nums, 4);
        assert_eq!(config.properties.max_message_size, 1024);
        assert!(!config.auto_create_topics && config.properties.long_polling_enable.on());
    }

    #[test]
    fn the_retention_is_a_time_span_or_javas_hours() {
        for (line, seconds) in [
            ("", 72 * 3_600),
            ("retention: 90s", 90),
            ("retention: 15m", 900),
            ("retention: 3d", 3 * 86_400),
            ("properties: {fileReservedTime: '48'}", 48 * 3_600),
            ("retention: 1h\nproperties: {fileReservedTime: 48}", 3_600),
        ] {
            let text = GOOD.replace(
                "properties: {defaultTopicQueueNums: '4', maxMessageSize: 1024}",
                line,
            );
            let config = Config::parse(&text, Path::new("broker.yaml")).expect(line);
            let rules = config.retention_rules();
            assert_eq!(rules.keep.as_secs(), seconds, "{line}");
            assert_eq!((rules.clean_percent, rules.reject_percent), (75, 90));
        }
    }

    #[test]
    fn errors_name_key_and_line() {
        for (from, to, expect) in [
            (
                "flush: sync",
                "flush: maybe",
                "flush: unknown variant `maybe`",
            ),
            (
                "flush: sync",
                "flash: sync",
                "unknown field `flash`, expected one of",
            ),
            ("flush: sync", "flash: sync", "at line 8 column 1"),
            (
                "'4'",
                "'four'",
                "defaultTopicQueueNums: \"four\": invalid digit",
            ),
            ("'4'", "0", "properties.defaultTopicQueueNums: 1 to 1024"),
            (
                "maxMessageSize",
                "maxSize",
                "maxSize: no such property; there are",
            ),
            (
                "maxMessageSize: 1024",
                "messageDelayLevel: 1s 5x",
                "messageDelayLevel: \"1s 5x\": \"5x\" is no number",
            ),
            ("a:9876", "a", "nameServers: \"a\" is no host:port"),
            (
                "a:9876",
                "a:1,a:1",
                "nameServers: an address stands there twice",
            ),
            (
                "broker: b",
                "broker: a/b",
                "broker: The specified topic: a/b, contains illegal",
            ),
            (
                "10.0.0.1:10911",
                "0.0.0.0:10911",
                "storeHost: 0.0.0.0:10911 is no address",
            ),
            ("cluster: c\n", "", "missing field `cluster`"),
            (
                "flush: sync",
                "retention: 3 days",
                "retention: \"3 days\" is no time such as 90s, 15m, 72h or 3d",
            ),
            ("flush: sync", "retention: 0s", "is no time such as"),
            (
                "flush: sync",
                "diskUsedPercentClean: 91",
                "diskUsedPercentClean: 1 to diskUsedPercentReject, 90",
            ),
            (
                "maxMessageSize: 1024",
                "fileReservedTime: 0",
                "properties.fileReservedTime: 1 to 876000 hours",
            ),
        ] {
            refused(from, to, expect);
        }
    }

    #[test]
    fn errors_of_ports_name_their_key() {
        for (wrong, expect) in [
            (
                "tls: {mode: maybe}",
                "\"maybe\": no mode: disabled, permissive or enforcing",
            ),
            (
                "tls: {certPath: /tls.crt}",
                "listen.tls: certPath and keyPath go together",
            ),
            (
                "proxyProtocolFrom: [10.0.0.0/40]",
                "\"10.0.0.0/40\" is no address and no network",
            ),
        ] {
            refused("http: ", &format!("{wrong}, http: "), expect);
        }
        refused(
            "broker:1",
            "tls://broker:1",
            "advertise: \"tls://broker:10911\" is no host:port",
        );
    }

    fn refused(from: &str, to: &str, expect: &str) {
        let text = GOOD.replace(from, to);
        let error = Config::parse(&text, Path::new("broker.yaml"))
            .expect_err(to)
            .to_string();
        assert!(error.contains(expect), "{error:?} does not say {expect:?}");
        assert!(
            error.starts_with("the configuration broker.yaml is wrong: "),
            "{error}"
        );
    }
}
