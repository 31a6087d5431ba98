//! The content of messages. It depends only on constant data, so each attempt sends the same
//! bytes.

use actpass_protocol::Json;

use super::{Announcement, Form, Webhook};
use crate::approvals::Approval;
use crate::clock::rfc3339;
use crate::halts::{Scope, what};
use crate::object_writer::object;

/// Longer arguments are not sent.
const MAX_ARGUMENT_BYTES: usize = 16 * 1024;

/// Maximum length of the text of a Slack block.
const MAX_BLOCK_CHARACTERS: usize = 2_900;

/// Maximum length of the variable part of an e-mail's subject.
const MAX_SUBJECT_CHARACTERS: usize = 150;

/// The subject of a message.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) announcement: Announcement,
    pub(super) tenant_id: String,
    /// The event; `None` for an approval that expired.
    pub(super) event: Option<Json>,
    pub(super) approval: Option<Approval>,
}

/// A message to send.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) id: String,
    pub(super) announcement: Announcement,
    /// When its event happened.
    pub(super) timestamp: String,
    /// One line for the subject of an e-mail.
    pub(super) subject: String,
    pub(super) body: String,
}

impl Subject {
    fn event_text(&self, name: &str) -> Option<&str> {
        self.event.as_ref().and_then(|event| event.member(name)).and_then(Json::as_str)
    }

    /// The id of the message, the same for each attempt.
    fn id(&self) -> String {
        let what = self.announcement.as_str().replace('.', "_");
        let of = self.event_text("event_id").or(self.approval.as_ref().map(|approval| &*approval.id));
        format!("{}_{what}", of.unwrap_or_default())
    }

    /// When it happened.
    fn timestamp(&self) -> String {
        match (self.event_text("created_at"), &self.approval) {
            (Some(at), _) => at.to_owned(),
            (None, Some(approval)) => rfc3339(approval.deadline),
            (None, None) => rfc3339(0),
        }
    }

    /// Creates the message for a webhook. `page` is the URL of the approvals page.
    pub(super) fn message(&self, webhook: &Webhook, page: &str) -> Message {
        let link = self.approval.as_ref().map(|approval| format!("{page}/approvals/{}", approval.id));
        let (with_arguments, link) = (webhook.with_arguments, link.as_deref());
        let body = match webhook.form {
            Form::Mail(_) => self.mail(with_arguments, link),
            Form::Slack { .. } => self.slack(with_arguments, link).to_string(),
            Form::Standard { .. } => self.standard(with_arguments, link).to_string(),
        };
        Message {
            id: self.id(),
            announcement: self.announcement,
            timestamp: self.timestamp(),
            subject: format!("ActPass: {}", cut(&self.summary(), MAX_SUBJECT_CHARACTERS)),
            body,
        }
    }

    fn standard(&self, with_arguments: bool, link: Option<&str>) -> Json {
        let event = |name: &str| self.event.as_ref().and_then(|event| event.member(name)).cloned();
        let is_decision =
            matches!(self.announcement, Announcement::ApprovalRequested | Announcement::BudgetExceeded);
        let of_decision = |name: &str| event(name).filter(|_| is_decision);
        let data = object([
            ("tenant_id", Some(Json::from(&*self.tenant_id))),
            ("event_id", event("event_id")),
            ("agent_id", of_decision("agent_id")),
            ("user_id", of_decision("user_id")),
            ("tool", of_decision("tool_id")),
            ("decision", of_decision("decision")),
            ("reason_code", of_decision("reason_code")),
            ("matched_rules", of_decision("matched_rules")),
            ("policy_hash", of_decision("policy_hash")),
            ("budgets", of_decision("budgets")),
            ("approval", self.approval.as_ref().map(|approval| describe(approval, with_arguments, link))),
            ("decided", self.decided()),
            ("checkpoint", event("metadata").filter(|_| self.announcement == Announcement::LedgerCheckpoint)),
            ("halt", self.halt()),
            ("reload", event("metadata").filter(|_| self.announcement == Announcement::PolicyReloaded)),
        ]);
        object([
            ("type", Some(Json::from(self.announcement.as_str()))),
            ("timestamp", Some(Json::String(self.timestamp()))),
            ("data", Some(data)),
        ])
    }

    /// The decision of a person, as the event records it.
    fn decided(&self) -> Option<Json> {
        if self.announcement != Announcement::ApprovalDecided {
            return None;
        }
        let metadata = self.event.as_ref().and_then(|event| event.member("metadata"));
        let is_approved = self.event_text("event_type") == Some(crate::ledger::APPROVAL_APPROVED);
        Some(object([
            ("status", Some(Json::from(if is_approved { "approved" } else { "rejected" }))),
            ("by", metadata.and_then(|metadata| metadata.member("decided_by")).cloned()),
            ("at", self.event_text("created_at").map(Json::from)),
        ]))
    }

    /// The halt and its author, or its lifting, as the event records it.
    fn halt(&self) -> Option<Json> {
        let status = match self.announcement {
            Announcement::HaltLifted => "lifted",
            Announcement::HaltStarted => "active",
            Announcement::ApprovalDecided
            | Announcement::ApprovalExpired
            | Announcement::ApprovalRequested
            | Announcement::BudgetExceeded
            | Announcement::LedgerCheckpoint
            | Announcement::PolicyReloaded => return None,
        };
        let metadata = |name| self.event.as_ref()?.member("metadata")?.member(name).cloned();
        Some(object([
            ("id", metadata("halt_id")),
            ("status", Some(Json::from(status))),
            ("scope", metadata("scope")),
            ("target", metadata("target")),
            ("reason", metadata("reason")),
            ("by", self.event_text("key_name").map(Json::from)),
            ("at", self.event_text("created_at").map(Json::from)),
            ("halt_epoch", metadata("halt_epoch")),
        ]))
    }

    fn title(&self) -> String {
        match self.announcement {
            Announcement::ApprovalDecided => {
                let decided = self.decided();
                let text = |name| decided.as_ref().and_then(|d| d.member(name)).and_then(Json::as_str);
                format!("{} by {}", text("status").unwrap_or("decided"), text("by").unwrap_or("a person"))
            }
            Announcement::ApprovalExpired => "The deadline passed without a decision".to_owned(),
            Announcement::ApprovalRequested => "An action needs your approval".to_owned(),
            Announcement::BudgetExceeded => "An action would exceed a budget".to_owned(),
            Announcement::HaltLifted => "A halt was lifted".to_owned(),
            Announcement::HaltStarted => "A halt stops actions".to_owned(),
            Announcement::LedgerCheckpoint => "Checkpoint of the ledger".to_owned(),
            Announcement::PolicyReloaded => "The settings were reloaded".to_owned(),
        }
    }

    /// The title with its subject, in one line.
    fn summary(&self) -> String {
        let halted = || {
            let halt = self.halt()?;
            let text = |name| halt.member(name).and_then(Json::as_str);
            Some(what(Scope::parse(text("scope")?)?, text("target")))
        };
        let subject = self.approval.as_ref().map(|approval| approval.tool.clone()).or_else(halted);
        let title = self.title();
        one_line(&subject.map(|subject| format!("{title}: {subject}")).unwrap_or(title))
    }

    /// The facts that a person reads.
    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = Vec::new();
        let mut add = |name, value: Option<&str>| {
            if let Some(value) = value {
                facts.push((name, value.to_owned()));
            }
        };
        add("Tenant", Some(&self.tenant_id));
        match &self.approval {
            Some(approval) => {
                add("Tool", Some(&approval.tool));
                add("Agent", approval.agent_id.as_deref());
                add("User", approval.user_id.as_deref());
                add("Resource", approval.resource.as_deref().filter(|resource| !resource.is_empty()));
                add("Reason", Some(&approval.reason_code));
                add("Goal", Some(&approval.goal));
                add("Deadline", Some(&rfc3339(approval.deadline)));
            }
            None => {
                for (name, member) in [
                    ("Tool", "tool_id"),
                    ("Agent", "agent_id"),
                    ("User", "user_id"),
                    ("Decision", "decision"),
                    ("Reason", "reason_code"),
                ] {
                    add(name, self.event_text(member));
                }
                let metadata = self.event.as_ref().and_then(|event| event.member("metadata"));
                let text = |name| metadata.and_then(|metadata| metadata.member(name)).and_then(Json::as_str);
                if self.halt().is_some() {
                    add("Scope", text("scope"));
                    add("Target", text("target"));
                    add("Reason", text("reason"));
                    add("By", self.event_text("key_name"));
                    add("Halt", text("halt_id"));
                }
                add("Chain", text("chain_id"));
                add("Head", text("head"));
            }
        }
        facts
    }

    /// The text of an e-mail. Each fact is one line, so that no value looks like another fact or link.
    fn mail(&self, with_arguments: bool, link: Option<&str>) -> String {
        let mut lines = vec![self.title(), String::new()];
        lines.extend(self.facts().iter().map(|(name, value)| format!("{name}: {}", one_line(value))));
        if let Some(approval) = self.approval.as_ref().filter(|_| with_arguments) {
            lines.push(match approval.args.len() <= MAX_ARGUMENT_BYTES {
                true => format!("Arguments: {}", one_line(&approval.args)),
                false => "Arguments: too long for an e-mail".to_owned(),
            });
        }
        if let Some(link) = link {
            lines.extend([String::new(), "Open the request:".to_owned(), link.to_owned()]);
        }
        lines.push(String::new());
        lines.join("\n")
    }

    /// Blocks of a Slack message. Text is escaped, so that it can neither mention nor link.
    fn slack(&self, with_arguments: bool, link: Option<&str>) -> Json {
        let text = |kind: &str, text: &str| {
            object([("type", Some(Json::from(kind))), ("text", Some(Json::from(text)))])
        };
        let title = self.title();
        let facts: Vec<String> = self
            .facts()
            .iter()
            .map(|(name, value)| format!("*{name}*: {}", escape(&one_line(value))))
            .collect();
        let mut blocks = vec![
            object([
                ("type", Some(Json::from("header"))),
                ("text", Some(text("plain_text", &cut(&title, 150)))),
            ]),
            object([
                ("type", Some(Json::from("section"))),
                ("text", Some(text("mrkdwn", &cut(&facts.join("\n"), MAX_BLOCK_CHARACTERS)))),
            ]),
        ];
        if let Some(approval) = self.approval.as_ref().filter(|_| with_arguments) {
            let arguments =
                format!("```{}```", cut(&escape(&one_line(&approval.args)), MAX_BLOCK_CHARACTERS));
            blocks.push(object([
                ("type", Some(Json::from("section"))),
                ("text", Some(text("mrkdwn", &arguments))),
            ]));
        }
        if let Some(link) = link {
            let button = object([
                ("type", Some(Json::from("button"))),
                ("text", Some(text("plain_text", "Open the request"))),
                ("url", Some(Json::from(link))),
            ]);
            blocks.push(object([
                ("type", Some(Json::from("actions"))),
                ("elements", Some(Json::Array(vec![button]))),
            ]));
        }
        let summary = cut(&escape(&self.summary()), 300);
        object([("text", Some(Json::String(summary))), ("blocks", Some(Json::Array(blocks)))])
    }
}

fn describe(approval: &Approval, with_arguments: bool, link: Option<&str>) -> Json {
    let text = |text: &Option<String>| text.as_deref().map(Json::from);
    let is_short = approval.args.len() <= MAX_ARGUMENT_BYTES;
    let args = Some(&approval.args).filter(|_| with_arguments && is_short);
    object([
        ("id", Some(Json::from(&*approval.id))),
        ("url", link.map(Json::from)),
        ("tool", Some(Json::from(&*approval.tool))),
        ("resource", text(&approval.resource)),
        ("args", args.and_then(|args| Json::parse(args.as_bytes()).ok())),
        ("args_omitted", (with_arguments && !is_short).then_some(Json::Bool(true))),
        ("goal", Some(Json::from(&*approval.goal))),
        ("agent_id", text(&approval.agent_id)),
        ("user_id", text(&approval.user_id)),
        ("reason_code", Some(Json::from(&*approval.reason_code))),
        ("action_hash", Some(Json::from(&*approval.action_hash))),
        ("created_at", Some(Json::String(rfc3339(approval.created_at)))),
        ("deadline", Some(Json::String(rfc3339(approval.deadline)))),
    ])
}

/// Escapes Slack's control characters, and the formatting characters at which a text could end a
/// code block.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('`', "'")
}

fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

fn cut(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}
