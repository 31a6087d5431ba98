//! The proxy: a task for each session.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::client::{ClientIn, ClientOut};
use crate::exchange::End;
use crate::lines::{Outbox, read_stdin};
use crate::server::INPUT_END;
use crate::session::{Decided, Session, Shared};
use crate::upstream::{ServerIn, connect};

/// The time in which requests of a client that does not know yet that the server ended get an error.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// Runs a session over the standard streams until the client or the server ends it.
///
/// # Errors
///
/// The server cannot be started, ended by itself, or sent an invalid message.
pub(crate) async fn run(shared: Arc<Shared>) -> io::Result<()> {
    let (to_server, from_server) = connect(&shared.options.target, true)?;
    let (outbox, mut writer) = Outbox::stdout();
    let (session, verdicts) = Session::new(shared, ClientOut::Lines(outbox), to_server, Arc::default())?;
    let mut from_client = ClientIn::Lines { lines: read_stdin(), writer: &mut writer };
    let end = drive(session, verdicts, &mut from_client, from_server, interrupted()).await;
    if !writer.is_finished() {
        let _ = timeout_at(Instant::now() + INPUT_END, writer).await;
    }
    match end {
        End::Client | End::Interrupted => Ok(()),
        End::Broken(_) | End::ServerOutput => Err(io::Error::other(end.to_string())),
    }
}

/// Runs a session until its end, or until `stop` completes.
pub(crate) async fn drive(
    mut session: Session,
    mut verdicts: mpsc::UnboundedReceiver<Decided>,
    from_client: &mut ClientIn<'_>,
    mut from_server: ServerIn,
    stop: impl Future<Output = ()>,
) -> End {
    let mut stop = Box::pin(stop);
    let end = loop {
        let deadline = session.deadline();
        let ended = tokio::select! {
            biased;
            () = &mut stop => Some(End::Interrupted),
            // A cancellation that has arrived counts before a verdict.
            event = from_client.recv() => session.handle_client(event),
            verdict = verdicts.recv() => {
                verdict.and_then(|verdict| { session.decided(verdict); None })
            }
            event = async { session.to_client.ready().await; from_server.recv().await } => {
                session.handle_server(event)
            }
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                session.expire();
                None
            }
        };
        if let Some(end) = ended.or_else(|| session.to_server.overflow()) {
            break end;
        }
    };
    session.end_decisions(&end);
    session.to_server.close();
    let end = from_server.finish(end, |line| session.handle_remaining(line)).await;
    session.end_requests(&end);
    if let (ClientIn::Lines { .. }, End::Broken(_) | End::ServerOutput) = (&*from_client, &end) {
        let until = Instant::now() + LAST_REQUESTS;
        while let Ok(event) = timeout_at(until, from_client.recv()).await {
            if session.reject(event, &end) {
                break;
            }
        }
    }
    end
}

/// Completes on SIGINT or SIGTERM.
pub(crate) async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
