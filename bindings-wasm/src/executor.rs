//! Tasks, run by the entries of the module until none is ready.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

#[derive(Default)]
struct Tasks {
    last: u64,
    /// `None` while the task is polled.
    waiting: HashMap<u64, Option<Task>>,
    ready: VecDeque<u64>,
}

thread_local! {
    static TASKS: RefCell<Tasks> = RefCell::default();
}

struct TaskWaker(u64);

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        TASKS.with_borrow_mut(|tasks| tasks.ready.push_back(self.0));
    }
}

/// Adds a task, which the next [`run`] polls. Returns its number.
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> u64 {
    TASKS.with_borrow_mut(|tasks| {
        tasks.last += 1;
        let number = tasks.last;
        tasks.waiting.insert(number, Some(Box::pin(task)));
        tasks.ready.push_back(number);
        number
    })
}

/// Drops a task.
pub(crate) fn cancel(number: u64) {
    // Dropped outside of the borrow, because dropping may wake other tasks.
    drop(TASKS.with_borrow_mut(|tasks| tasks.waiting.remove(&number)));
}

/// Polls tasks until none is ready.
pub(crate) fn run() {
    while let Some(number) = TASKS.with_borrow_mut(|tasks| tasks.ready.pop_front()) {
        let taken = TASKS.with_borrow_mut(|tasks| tasks.waiting.get_mut(&number).and_then(Option::take));
        let Some(mut task) = taken else { continue };
        let waker = Waker::from(Arc::new(TaskWaker(number)));
        let polled = task.as_mut().poll(&mut Context::from_waker(&waker));
        let ended = TASKS.with_borrow_mut(|tasks| match (polled, tasks.waiting.get_mut(&number)) {
            (Poll::Pending, Some(slot)) => {
                *slot = Some(task);
                None
            }
            // It was cancelled while it was polled.
            (Poll::Pending, None) => Some(task),
            (Poll::Ready(()), _) => {
                tasks.waiting.remove(&number);
                Some(task)
            }
        });
        drop(ended);
    }
}
