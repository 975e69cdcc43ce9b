//! Texts that an administrator keeps at the name servers, by namespace and key.
//!
//! They live in memory, like the routes: a name server has no disk, and one that starts again
//! knows none of them until they are put again. `mqadmin` writes to every name server, so the
//! others still have them. Nothing depends on them but the order of queues that
//! `orderMessageEnable` hands out, which is off unless somebody turns it on.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use protocol::body::KvTable;
use protocol::header::{KvAnswer, KvListOf, KvOf, PutKv};
use protocol::json::to_json;
use protocol::{Frame, Header as _, Refusal, ResponseCode};

use super::{NameServer, success};

/// Topic to `broker:queues;...`: the queues of topics whose messages are ordered.
pub(super) const ORDER_TOPICS: &str = "ORDER_TOPIC_CONFIG";

/// Names, keys and values together.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// What an entry costs beside its text, so that empty ones are bounded too.
const ENTRY_BYTES: usize = 128;

#[derive(Debug, Default)]
pub(super) struct Kv {
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    bytes: usize,
}

impl Kv {
    pub(super) fn get(&self, namespace: &str, key: &str) -> Option<String> {
        self.namespaces.get(namespace)?.get(key).cloned()
    }

    pub(super) fn list(&self, namespace: &str) -> Option<KvTable> {
        let table = self.namespaces.get(namespace)?.clone();
        Some(KvTable { table })
    }

    fn put(&mut self, new: PutKv) -> Result<(), Refusal> {
        let bytes =
            |key: &str, value: &str| new.namespace.len() + key.len() + value.len() + ENTRY_BYTES;
        let old = self.get(&new.namespace, &new.key);
        let freed = old.map_or(0, |old| bytes(&new.key, &old));
        let after = self.bytes - freed + bytes(&new.key, &new.value);
        if after > BYTES_MAX {
            let remark = format!("the name server keeps {BYTES_MAX} bytes of such texts");
            return Err(Refusal::new(ResponseCode::SystemError, remark));
        }
        self.bytes = after;
        let namespace = self.namespaces.entry(new.namespace).or_default();
        namespace.insert(new.key, new.value);
        Ok(())
    }

    /// The namespace stays, as Java's does.
    fn delete(&mut self, namespace: &str, key: &str) {
        let Some(table) = self.namespaces.get_mut(namespace) else {
            return;
        };
        if let Some(value) = table.remove(key) {
            self.bytes -= namespace.len() + key.len() + value.len() + ENTRY_BYTES;
        }
    }
}

impl NameServer {
    pub(super) fn put_kv(&self, request: &Frame) -> Result<Frame, Refusal> {
        self.kv().put(PutKv::read(&request.fields)?)?;
        Ok(success(request))
    }

    pub(super) fn get_kv(&self, request: &Frame) -> Result<Frame, Refusal> {
        let KvOf { namespace, key } = KvOf::read(&request.fields)?;
        let value = self.kv().get(&namespace, &key);
        if value.is_none() {
            let remark = format!("No config item, Namespace: {namespace} Key: {key}");
            return Err(Refusal::new(ResponseCode::QueryNotFound, remark));
        }
        Ok(success(request).with_header(&KvAnswer { value }))
    }

    pub(super) fn delete_kv(&self, request: &Frame) -> Result<Frame, Refusal> {
        let KvOf { namespace, key } = KvOf::read(&request.fields)?;
        self.kv().delete(&namespace, &key);
        Ok(success(request))
    }

    pub(super) fn list_kv(&self, request: &Frame) -> Result<Frame, Refusal> {
        let KvListOf { namespace } = KvListOf::read(&request.fields)?;
        let table = self.kv().list(&namespace).ok_or_else(|| {
            let remark = format!("No config item, Namespace: {namespace}");
            Refusal::new(ResponseCode::QueryNotFound, remark)
        })?;
        Ok(success(request).with_body(to_json(&table)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_has_a_bound_and_gives_its_room_back() {
        let put = |kv: &mut Kv, key: usize, value: usize| {
            kv.put(PutKv {
                namespace: "n".into(),
                key: format!("{key:04}"),
                value: "v".repeat(value),
            })
        };
        let mut kv = Kv::default();
        let mebibyte = 1024 * 1024;
        let kept = (0..20).filter(|key| put(&mut kv, *key, mebibyte).is_ok());
        assert_eq!(kept.count(), 15);
        put(&mut kv, 3, 0).expect("less than before");
        put(&mut kv, 99, mebibyte).expect("there is room again");
        for key in 0..100 {
            kv.delete("n", &format!("{key:04}"));
        }
        assert_eq!(kv.bytes, 0);
        assert_eq!(kv.list("n"), Some(KvTable::default()));
        assert_eq!(kv.list("m"), None);
    }
}
