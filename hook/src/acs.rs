//! The bridge of the Agent Control Standard from standard input and output to a gateway.
//!
//! The host starts the bridge and sends it the standard's signed requests. The bridge passes each one
//! to the gateway, verifies the signature of the answer, and returns it. An authenticated step always
//! gets a signed decision: if the gateway does not decide, the bridge signs a `deny`.

use std::io::{self, Read, Write, stderr};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::thread;

use actpass_acs::{Envelope, RpcError, SessionKey, Verdict, result, sign, verify};
use actpass_core::{Endpoint, Error, ErrorKind};
use actpass_protocol::{Json, Secret};
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use tokio::sync::{Semaphore, mpsc};

use crate::frames::{Frame, FrameReader, Framing, MAX_MESSAGE};

/// The path of the gateway. The query declares the client's transport, which the hello repeats.
pub const PATH: &str = "/acs?transport=stdio";

/// Maximum number of requests in flight. Further ones are not read.
const MAX_IN_FLIGHT: u32 = 64;

/// The bridge to a gateway.
#[derive(Debug)]
pub struct Bridge {
    gateway: Endpoint,
    secret: Secret,
}

impl Bridge {
    /// A bridge to the path [`PATH`] of a gateway. The secret is the one of the gateway's
    /// `acs_secret_file`.
    pub fn new(gateway: Endpoint, secret: Secret) -> Self {
        Self { gateway, secret }
    }

    /// Answers the requests of `input` until it ends and all of them are answered. Answers are not in
    /// the order of the requests; their ids are the requests'. They have the framing of the input.
    ///
    /// # Errors
    ///
    /// If the input is not a sequence of messages, or `output` is closed.
    pub async fn serve(
        self: &Arc<Self>,
        input: impl Read + Send + 'static,
        output: impl Write + Send + 'static,
    ) -> io::Result<()> {
        let mut frames = read(input);
        let (answers, writer) = write(output);
        let in_flight = Arc::new(Semaphore::new(MAX_IN_FLIGHT as usize));
        let mut ended = Ok(());
        loop {
            let next = async {
                let permit = Arc::clone(&in_flight).acquire_owned().await.ok()?;
                Some((permit, frames.recv().await?))
            };
            let next = match select(pin!(next), pin!(answers.closed())).await {
                Either::Left((next, _)) => next,
                Either::Right(_) => return writer.await.map_err(io::Error::other)?,
            };
            let Some((permit, (framing, frame))) = next else { break };
            let message = match frame {
                Frame::Message(message) => message,
                Frame::TooLarge => {
                    let problem = format!("expected a message of at most {MAX_MESSAGE} bytes");
                    let error =
                        RpcError { code: -32600, reason: "too_large", ..RpcError::unreadable(problem) };
                    let _ = answers.send(framing.write(&error.response().to_string())).await;
                    continue;
                }
                Frame::Broken(problem) => {
                    let error = RpcError::unreadable(&*problem);
                    let _ = answers.send(framing.write(&error.response().to_string())).await;
                    ended = Err(io::Error::new(io::ErrorKind::InvalidData, problem));
                    break;
                }
            };
            let (bridge, answers) = (Arc::clone(self), answers.clone());
            tokio::spawn(async move {
                let answer = bridge.answer(message).await;
                // A closed output ends the bridge.
                let _ = answers.send(framing.write(&answer.to_string())).await;
                drop(permit);
            });
        }
        // All permits are free when all requests are answered, or the output is closed.
        let _ = in_flight.acquire_many(MAX_IN_FLIGHT).await;
        drop(answers);
        writer.await.map_err(io::Error::other)??;
        ended
    }

    /// Returns the answer to one message.
    async fn answer(&self, message: Vec<u8>) -> Json {
        let request = match Envelope::parse(&message) {
            Ok(request) => request,
            Err(error) => return error.response(),
        };
        let key = request.authenticate(&self.secret);
        if key.is_none() && !request.is_ping() {
            return RpcError::unsigned(request.id).response();
        }
        let asked = AssertUnwindSafe(self.ask(message, &request, key.as_ref())).catch_unwind();
        let panicked = |_| Err(Error::new(ErrorKind::Internal, "internal error"));
        asked.await.unwrap_or_else(panicked).unwrap_or_else(|error| {
            // A closed standard error changes nothing.
            let _ = writeln!(stderr(), "actpass-hook: {error}");
            refuse(&request, key.as_ref(), error.kind())
        })
    }

    /// Returns the gateway's answer, which is verified.
    async fn ask(
        &self,
        message: Vec<u8>,
        request: &Envelope,
        key: Option<&SessionKey>,
    ) -> Result<Json, Error> {
        let response = self.gateway.post(message).await?;
        let kind = match response.status {
            200 => ErrorKind::Response,
            429 => ErrorKind::RateLimit,
            _ => ErrorKind::Status,
        };
        if response.status != 200 {
            return Err(Error::new(kind, format!("the gateway answered with status {}", response.status)));
        }
        let body = response.body.map_err(|error| Error::new(kind, error.to_string()))?;
        verify(&body, request, key)
            .map_err(|error| Error::new(kind, format!("the gateway's answer: {error}")))
    }
}

/// Returns the answer to a request that the gateway did not decide: a signed `deny`, or for a ping
/// without a valid signature, an error.
fn refuse(request: &Envelope, key: Option<&SessionKey>, kind: ErrorKind) -> Json {
    let message = match kind {
        ErrorKind::Connection => "the gateway is unreachable",
        ErrorKind::RateLimit => "the gateway receives too many requests",
        ErrorKind::Response => "the gateway's answer is not a signed decision",
        ErrorKind::Status => "the gateway answered with an error",
        ErrorKind::Timeout => "the gateway did not answer in time",
        ErrorKind::Argument
        | ErrorKind::Authentication
        | ErrorKind::Config
        | ErrorKind::Internal
        | ErrorKind::Permission => "internal error of the bridge",
    };
    let signature = request.signature.as_ref().zip(key);
    let signed = signature.and_then(|(signature, key)| {
        let denied = result(request.request_id(), Verdict::deny(kind.code(), message), None);
        sign(key, &signature.key_id, &request.id, denied)
    });
    signed.unwrap_or_else(|| {
        let (id, message) = (request.id.clone(), message.to_owned());
        RpcError { id, code: -32603, reason: kind.code(), message }.response()
    })
}

/// Reads the messages of `input` in a thread.
fn read(input: impl Read + Send + 'static) -> mpsc::Receiver<(Framing, Frame)> {
    let (sender, frames) = mpsc::channel(1);
    thread::spawn(move || {
        let mut reader = FrameReader::new(input);
        while let Some(frame) = reader.read_frame() {
            let is_broken = matches!(frame.1, Frame::Broken(_));
            if sender.blocking_send(frame).is_err() || is_broken {
                return;
            }
        }
    });
    frames
}

/// Writes answers to `output` in a thread, until the first failure.
fn write(
    mut output: impl Write + Send + 'static,
) -> (mpsc::Sender<Vec<u8>>, tokio::task::JoinHandle<io::Result<()>>) {
    let (answers, mut queue) = mpsc::channel::<Vec<u8>>(1);
    let writer = tokio::task::spawn_blocking(move || {
        while let Some(answer) = queue.blocking_recv() {
            output.write_all(&answer)?;
            output.flush()?;
        }
        Ok(())
    });
    (answers, writer)
}
