//! Log lines of calls. In its own program, because it sets the process's subscriber.
#![allow(clippy::unwrap_used, reason = "tests")]

use actpass_session::CallLog;
use tracing::Level;
use tracing::level_filters::LevelFilter;

#[tokio::test]
async fn call_log_contains_only_lines_of_its_calls() {
    let logs = [LevelFilter::INFO, LevelFilter::DEBUG, LevelFilter::OFF].map(CallLog::new);
    let calls = logs.iter().enumerate().map(|(call, log)| {
        CallLog::instrument(Some(log.clone()), async move {
            tracing::debug!(target: "actpass_core", call, "asked");
            tokio::task::yield_now().await;
            tracing::info!(target: "actpass_core", tool = "a\nforged line", call, "blocked");
            tracing::error!(target: "hyper", "of another library");
        })
    });
    futures_util::future::join_all(calls).await;
    tracing::error!(target: "actpass_core", "outside of a call");
    let without_log = CallLog::instrument(None, async {
        tracing::error!(target: "actpass_core", "of a call without a log");
    });
    without_log.await;

    let lines =
        logs.map(|log| log.drain().into_iter().map(|line| (line.level, line.text)).collect::<Vec<_>>());
    let blocked = |call| (Level::INFO, format!("blocked tool=a forged line call={call}"));
    assert_eq!(
        lines,
        [vec![blocked(0)], vec![(Level::DEBUG, "asked call=1".to_owned()), blocked(1)], vec![]]
    );
}
