//! The tables and the store together: a change applied to both, the base written and read.
//!
//! A base holds the tables exactly as the state records below its position made them: it is taken
//! on the store's own thread, between two records. Consumer offsets are the exception, they may be
//! newer; the store is synced before such a base counts, so that no offset is ahead of the log.

use std::fmt::Display;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use protocol::topic::{STATE_TOPIC, is_system};
use store::{AppendError, Store, state};

use crate::Broker;
use crate::process::RunError;
use crate::request::{state_message, state_record};
use crate::tables::{Change, Tables};

const TAKE_MAX: Duration = Duration::from_mins(1);

/// Applies a change whose record has committed at `position`; `true` when the name servers must
/// learn it. Messages of a topic that lie below its deletion or its creation are not shown.
pub(crate) fn apply(
    store: &Store,
    tables: &mut Tables,
    change: Change,
    position: u64,
    store_ms: i64,
) -> bool {
    let hidden = match &change {
        Change::TopicDeleted(topic) => Some(topic),
        Change::Topic(config) => {
            let created = tables.topic(&config.topic_name).is_none();
            created.then_some(&config.topic_name)
        }
        Change::Mins(mins) => {
            for min in mins {
                store.raise_min(&min.topic, min.queue, min.min);
            }
            None
        }
        _ => None,
    };
    if let Some(topic) = hidden
        && let Err(error) = store.hide(topic, position)
    {
        tracing::error!(topic, %error, "old messages of the topic can't be hidden");
    }
    tables.apply(change, store_ms)
}

/// Fills empty tables from the base; returns the offset of the first state record that follows.
pub(crate) fn read(store: &Store, tables: &mut Tables) -> Result<i64, RunError> {
    let broken = |error: &dyn Display| RunError::State(error.to_string());
    let base = store.base().map_err(|error| broken(&error))?;
    let base = base.unwrap_or_default();
    if !base.state.is_empty() {
        for entry in state::decode(&base.state).map_err(|error| broken(&error))? {
            if let Some(change) = Change::decode(entry).map_err(|error| broken(&error))? {
                tables.apply(change, 0);
            }
        }
    }
    store
        .offset_at_position(STATE_TOPIC, 0, base.position)
        .map_err(|error| broken(&error))
}

/// Takes and writes a base at the log's end. Waits for the disk: not for the async threads.
pub(crate) fn write(broker: &Arc<Broker>) -> Result<(), String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let owner = Arc::clone(broker);
    // An empty record: its callback runs when all before it is applied and nothing behind it.
    let message = state_message(state_record(&[]), broker.config.store_host);
    let take = move |appended: Result<store::Appended, AppendError>| {
        let position = match appended {
            Ok(appended) => Ok(appended.position),
            // Refused on the same thread, before the batch that it came with.
            Err(AppendError::DiskFull { .. }) => Ok(owner.store.status().confirm),
            Err(error) => Err(error.to_string()),
        };
        let _ = sender.send(position.map(|position| (position, taken(&owner))));
    };
    broker.store.append(message, Box::new(take));
    let taken = receiver.recv_timeout(TAKE_MAX);
    let (position, changes) = taken.map_err(|error| error.to_string())??;
    broker
        .store
        .write_base(position, state_record(&changes))
        .map_err(|error| error.to_string())
}

/// On the store's thread.
fn taken(broker: &Broker) -> Vec<Change> {
    let (changes, known) = {
        let tables = broker.tables();
        (tables.snapshot(), tables.remembered())
    };
    let known = |topic: &str| known.contains(topic) || is_system(topic);
    broker.store.forget(&known);
    changes
}
