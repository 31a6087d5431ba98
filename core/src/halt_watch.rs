//! The watch for stops of running functions.

use std::pin::pin;
use std::time::Duration;

use actpass_protocol::json::RawObject;
use actpass_protocol::{Json, Operation};
use futures_util::future::{Either, select};

use crate::approval::MAX_POLL;
use crate::client::ActPass;
use crate::clock::Moment;
use crate::halts::{Acknowledgement, HaltWatch, Next, Subject, epoch_of};
use crate::request;
use crate::retry::jittered;
use crate::transport::Request;

/// The minimum time between the starts of two polls, if the first reports no newer epoch.
const MIN_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The longest pause after failed requests of a watch.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// The timeout of a watch's request, in addition to the time for which the gateway holds it.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum number of attempts to send an acknowledgement.
const MAX_ACKNOWLEDGEMENTS: u32 = 5;

impl HaltWatch {
    /// Runs until the client has no running function. Sends with `actpass`.
    pub async fn run(mut self, actpass: &ActPass) {
        let (mut failures, mut unsent) = (0, 0);
        let mut paused_until = Moment::default();
        loop {
            let now = actpass.clock().now();
            let has_succeeded = match self.halts.next(now, paused_until) {
                Next::Stop => {
                    self.has_stopped = true;
                    return;
                }
                Next::Sleep(until) => {
                    let sleep = pin!(actpass.sleep_until(until));
                    let _ = select(sleep, pin!(self.halts.woken())).await;
                    continue;
                }
                Next::Ask(subject, epoch) => self.ask(actpass, &subject, epoch).await,
                Next::Acknowledge(acknowledgement) => {
                    let is_sent = self.acknowledge(actpass, acknowledgement).await;
                    unsent += 1;
                    if is_sent || unsent >= MAX_ACKNOWLEDGEMENTS {
                        self.halts.settle(acknowledgement);
                        unsent = 0;
                    }
                    is_sent
                }
                Next::Poll(after) => match self.poll(actpass, after).await {
                    None => continue,
                    Some(Ok(is_newer)) => {
                        if !is_newer {
                            paused_until = now + MIN_POLL_INTERVAL;
                        }
                        true
                    }
                    Some(Err(NoAnswer)) => false,
                },
            };
            match has_succeeded {
                true => failures = 0,
                false => {
                    let clock = actpass.clock();
                    paused_until = clock.now() + jittered(MIN_POLL_INTERVAL, failures, MAX_PAUSE, clock);
                    failures = failures.saturating_add(1);
                }
            }
        }
    }

    /// Waits for a newer epoch and returns whether it came; `None` if the wait ended for another
    /// reason.
    async fn poll(&self, actpass: &ActPass, after: u64) -> Option<Result<bool, NoAnswer>> {
        let wait = MAX_POLL.min(actpass.timeout().mul_f64(0.8));
        let mut answer = pin!(self.watch(actpass, after, wait, None));
        let (epoch, is_halted) = loop {
            match select(answer.as_mut(), pin!(self.halts.woken())).await {
                Either::Left((Ok(answer), _)) => break answer,
                Either::Left((Err(failed), _)) => return Some(Err(failed)),
                Either::Right(_) if self.halts.is_quiet(after) => {}
                Either::Right(_) => return None,
            }
        };
        self.halts.observe(Some(epoch));
        if is_halted {
            // Without a tool and a user, the answer is about the agent, the tenant or everything.
            self.halts.apply(epoch, true, None);
        }
        Some(Ok(epoch > after))
    }

    async fn ask(&self, actpass: &ActPass, subject: &Subject, seen: u64) -> bool {
        let after = seen.saturating_sub(1);
        match self.watch(actpass, after, Duration::ZERO, Some(subject)).await {
            // A gateway that has not seen the epoch yet cannot know.
            Ok((epoch, is_halted)) if epoch >= seen || is_halted => {
                self.halts.apply(epoch.max(seen), is_halted, Some(subject));
                true
            }
            Ok(_) | Err(NoAnswer) => false,
        }
    }

    async fn watch(
        &self,
        actpass: &ActPass,
        after: u64,
        wait: Duration,
        subject: Option<&Subject>,
    ) -> Result<(u64, bool), NoAnswer> {
        let mut query = format!("?after={after}&wait={}", wait.as_secs());
        let user_id = subject.and_then(|subject| subject.user_id.as_deref());
        let members = [
            ("agent_id", Some(self.halts.agent_id())),
            ("tool", subject.map(|subject| subject.tool.as_str())),
            ("user_id", user_id),
        ];
        for (name, value) in members {
            if let Some(value) = value {
                query += &format!("&{name}={}", request::encode(value));
            }
        }
        let request = Request { path_suffix: query, ..Request::new(Operation::WatchHalts, "") };
        let body = actpass.attempt(request, wait + ATTEMPT_TIMEOUT).await.ok_or(NoAnswer)?;
        let document = RawObject::parse(&body).map_err(|_| NoAnswer)?;
        let Ok(Some(epoch)) = epoch_of(&document) else { return Err(NoAnswer) };
        match document.member("halted") {
            Some(Json::Bool(is_halted)) => Ok((epoch, is_halted)),
            Some(_) | None => Err(NoAnswer),
        }
    }

    async fn acknowledge(&self, actpass: &ActPass, acknowledgement: Acknowledgement) -> bool {
        let Acknowledgement { epoch, in_flight } = acknowledgement;
        let (agent_id, instance) = (self.halts.agent_id(), self.halts.instance(actpass.clock()));
        let body = request::acknowledge_halt(epoch, in_flight, agent_id, instance);
        let request = Request::new(Operation::AcknowledgeHalt, body);
        actpass.attempt(request, ATTEMPT_TIMEOUT).await.is_some()
    }
}

/// A request of the watch failed.
struct NoAnswer;
