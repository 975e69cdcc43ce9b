//! The settings that an administrator can change while the name server runs: those named here,
//! none else. Like everything in a name server they last until it ends.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use protocol::{Frame, Refusal, ResponseCode, settings};

use super::{NameServer, success};

/// By the names and defaults of `NamesrvConfig.java`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) delete_topic_with_broker_registration: bool,
    pub(super) enable_all_topic_list: bool,
    pub(super) enable_topic_list: bool,
    pub(super) order_message_enable: bool,
    pub(super) return_order_topic_config_to_broker: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            delete_topic_with_broker_registration: false,
            enable_all_topic_list: true,
            enable_topic_list: true,
            order_message_enable: false,
            return_order_topic_config_to_broker: true,
        }
    }
}

impl Settings {
    fn named(&mut self) -> [(&'static str, &mut bool); 5] {
        [
            (
                "deleteTopicWithBrokerRegistration",
                &mut self.delete_topic_with_broker_registration,
            ),
            ("enableAllTopicList", &mut self.enable_all_topic_list),
            ("enableTopicList", &mut self.enable_topic_list),
            ("orderMessageEnable", &mut self.order_message_enable),
            (
                "returnOrderTopicConfigToBroker",
                &mut self.return_order_topic_config_to_broker,
            ),
        ]
    }

    /// All of the changes or, where one may not be made, none.
    fn changed(mut self, text: &str) -> Result<Self, Refusal> {
        for (key, value) in settings::read(text) {
            let mut named = self.named();
            let Some((_, setting)) = named.iter_mut().find(|(name, _)| *name == key) else {
                let names = named.map(|(name, _)| name).join(", ");
                let remark = format!("Can not update config {key}: only {names}");
                return Err(Refusal::new(ResponseCode::NoPermission, remark));
            };
            **setting = value.eq_ignore_ascii_case("true");
        }
        Ok(self)
    }
}

impl NameServer {
    pub(super) fn update_settings(&self, request: &Frame) -> Result<Frame, Refusal> {
        let text = String::from_utf8_lossy(&request.body);
        let mut settings = self
            .settings
            .lock()
            .expect("invariant: no panic while the settings are held");
        *settings = settings.changed(&text)?;
        tracing::info!(settings = ?*settings, "settings changed");
        Ok(success(request))
    }

    pub(super) fn show_settings(&self, request: &Frame) -> Frame {
        let mut settings = self.settings();
        let named = settings.named();
        let text = settings::write(named.map(|(name, value)| (name, value.to_string())));
        success(request).with_body(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_can_be_changed() {
        let check = |text: &str, expect: Result<(bool, bool), &str>| {
            let changed = Settings::default().changed(text);
            let found = changed
                .map(|s| (s.enable_topic_list, s.order_message_enable))
                .map_err(|refusal| refusal.to_string());
            match (&found, expect) {
                (Err(found), Err(expect)) => assert!(found.starts_with(expect), "{found}"),
                _ => assert_eq!(found, expect.map_err(str::to_owned), "{text}"),
            }
        };
        check("", Ok((true, false)));
        check(
            "enableTopicList=false\norderMessageEnable=TRUE\n",
            Ok((false, true)),
        );
        check("enableTopicList=yes", Ok((false, false)));
        let refused = "NO_PERMISSION Can not update config kvConfigPath: only deleteTopic";
        check(
            "enableTopicList=false\nkvConfigPath=/etc/passwd",
            Err(refused),
        );
    }
}
