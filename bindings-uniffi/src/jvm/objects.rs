//! The objects that the JVM refers to by numbers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use actpass_session::CallHandle;
use jni::sys::jlong;

use crate::calls::Calls;
use crate::guard::{NativeHaltSignal, NativeRecording, NativeSession};

/// Encodes the result of a completed call, on the thread that reads it.
pub(super) type Reply = Box<dyn FnOnce() -> Vec<u8> + Send>;

pub(super) enum Object {
    Client(Calls),
    Session(Arc<NativeSession>),
    Recording(Arc<NativeRecording>),
    HaltSignal(Arc<NativeHaltSignal>),
    /// The default until the call has started.
    Running(CallHandle),
    Completed(Reply),
}

pub(super) struct Objects {
    last: jlong,
    pub(super) by_number: BTreeMap<jlong, Object>,
}

static OBJECTS: Mutex<Objects> = Mutex::new(Objects { last: 0, by_number: BTreeMap::new() });

pub(super) fn objects() -> MutexGuard<'static, Objects> {
    OBJECTS.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn insert(object: Object) -> jlong {
    let mut objects = objects();
    objects.last += 1;
    let number = objects.last;
    objects.by_number.insert(number, object);
    number
}

/// Removes an object. It is dropped without the lock.
pub(super) fn take_out(number: jlong) -> Option<Object> {
    objects().by_number.remove(&number)
}

/// The number of a client, from the first use of the number until the client is dropped.
#[derive(Default)]
pub(crate) struct ClientNumber(OnceLock<jlong>);

impl ClientNumber {
    pub(crate) fn get(&self, calls: &Calls) -> i64 {
        *self.0.get_or_init(|| insert(Object::Client(calls.clone())))
    }
}

impl Drop for ClientNumber {
    fn drop(&mut self) {
        if let Some(number) = self.0.get() {
            remove(*number);
        }
    }
}

/// Removes an object, and cancels it if it is a call that has not completed.
pub(super) fn remove(number: jlong) {
    if let Some(Object::Running(call)) = take_out(number) {
        call.cancel();
    }
}
