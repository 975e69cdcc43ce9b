//! The tables as Java's JSON files under `config/`: written on a clean stop and now and then, and
//! read again where somebody else has changed one.

use protocol::record::Message;
use store::Store;

use crate::process::RunError;
use crate::request::{state_message, state_record};
use crate::tables::Tables;
use crate::{Broker, base};

/// Writes those that differ. Waits for the disk.
pub(crate) fn write(broker: &Broker) {
    let files = broker.tables().java_files();
    if let Err(error) = broker.store.write_configs(&files) {
        tracing::warn!(%error, "config/*.json not written");
    }
}

/// Takes files that another program has written for the truth: what they say becomes records.
pub(crate) fn import(store: &Store, tables: &mut Tables) -> Result<(), RunError> {
    let broken = |error: &dyn std::fmt::Display| RunError::State(error.to_string());
    for (name, content) in store.changed_configs().map_err(|error| broken(&error))? {
        let changes = tables
            .import(&name, &content)
            .map_err(|error| RunError::State(format!("config/{name}: {error}")))?;
        tracing::warn!(
            name,
            changes = changes.len(),
            "the file was changed by another program and is taken for the truth"
        );
        for change in changes {
            tracing::info!(name, ?change, "taken");
            let host = ([127, 0, 0, 1], 0).into();
            let message: Message = state_message(state_record(std::slice::from_ref(&change)), host);
            let written = store.append_wait(message).map_err(|error| broken(&error))?;
            base::apply(store, tables, change, written.position, written.store_ms);
        }
    }
    Ok(())
}
