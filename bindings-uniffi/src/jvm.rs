//! The guard's calls from the JVM, through JNI: each takes about a microsecond, a call through JNA
//! 10 to 40. `Jvm.kt` is their only caller. Records and errors are encoded as by uniffi.
//!
//! The JVM refers to an object by a number, which is never reused, so that a stale number is an
//! error. A panic or a failure of the JVM becomes a null or 0, which `Jvm.kt` reports as an error.

pub(crate) mod objects;
mod vm;

use std::future::Future;
use std::mem;
use std::sync::Arc;

use actpass_core::Error;
use actpass_session::CallHandle;
use jni::objects::{JByteArray, JClass, JObject};
use jni::sys::{jboolean, jlong};
use jni::{Env, EnvUnowned, Outcome};
use uniffi::{Lift, Lower};

use crate::UniFfiTag;
use crate::calls::Calls;
use crate::client::{Authorization, convert};
use crate::error::{NativeError, internal};
use crate::evidence::NativeRecorded;
use crate::guard::{
    NativeAction, NativeBegun, NativeContext, NativeDecision, NativeEnded, NativeHaltSignal, NativeRecording,
    NativeReport, NativeSession, NativeVerdict,
};
use objects::{Object, Reply, insert, objects, remove, take_out};
use vm::Callback;

type JniResult<T> = Result<T, jni::errors::Error>;

fn client(number: jlong) -> Result<Calls, NativeError> {
    match objects().by_number.get(&number) {
        Some(Object::Client(calls)) => Ok(calls.clone()),
        Some(_) | None => Err(internal("the client is closed")),
    }
}

fn session(number: jlong) -> Result<Arc<NativeSession>, NativeError> {
    match objects().by_number.get(&number) {
        Some(Object::Session(session)) => Ok(Arc::clone(session)),
        Some(_) | None => Err(internal("the permit is closed")),
    }
}

fn recording(number: jlong) -> Result<Arc<NativeRecording>, NativeError> {
    match objects().by_number.get(&number) {
        Some(Object::Recording(recording)) => Ok(Arc::clone(recording)),
        Some(_) | None => Err(internal("the recording is closed")),
    }
}

fn halt_signal(number: jlong) -> Option<Arc<NativeHaltSignal>> {
    match objects().by_number.get(&number) {
        Some(Object::HaltSignal(signal)) => Some(Arc::clone(signal)),
        Some(_) | None => None,
    }
}

/// Starts a call on the background thread. `reply` encodes its result.
fn start<T: Send + 'static>(
    done: Callback,
    call: impl Future<Output = Result<T, Error>> + Send + 'static,
    reply: impl FnOnce(Result<T, Error>) -> Vec<u8> + Send + 'static,
) -> jlong {
    let number = insert(Object::Running(CallHandle::default()));
    let handle = CallHandle::start(call, move |result| {
        if complete(number, Box::new(move || reply(result))) {
            done.run();
        }
    });
    if let Some(Object::Running(running)) = objects().by_number.get_mut(&number) {
        *running = handle;
    }
    number
}

/// The number of a call that failed before it started.
fn failed(done: &Callback, error: NativeError) -> jlong {
    let number = insert(Object::Completed(Box::new(move || encode(Err(error), |(), _| ()))));
    done.run();
    number
}

/// Stores the result of a call. Returns `false` if the call was removed.
fn complete(number: jlong, reply: Reply) -> bool {
    let mut objects = objects();
    let Some(object) = objects.by_number.get_mut(&number) else {
        drop(objects);
        return false;
    };
    // The previous object is a running call, whose drop does nothing.
    drop(mem::replace(object, Object::Completed(reply)));
    true
}

/// Encodes a result: 1 and the value, or 0 and the error.
fn encode<T>(result: Result<T, NativeError>, value: impl FnOnce(T, &mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1024);
    match result {
        Ok(result) => {
            bytes.push(1);
            value(result, &mut bytes);
        }
        Err(error) => {
            bytes.push(0);
            write(error, &mut bytes);
        }
    }
    bytes
}

fn write<T: Lower<UniFfiTag>>(value: T, bytes: &mut Vec<u8>) {
    T::write(value, bytes);
}

/// Encodes the number of a new object.
fn write_object(object: Object, bytes: &mut Vec<u8>) {
    write(insert(object), bytes);
}

fn read<T: Lift<UniFfiTag>>(bytes: &mut &[u8]) -> Result<T, NativeError> {
    T::try_read(bytes).map_err(|_| internal("an argument is not encoded as expected"))
}

fn encode_verdict(verdict: Result<NativeVerdict, NativeError>) -> Vec<u8> {
    encode(verdict, |verdict, bytes| match verdict {
        NativeVerdict::Blocked { blocked } => {
            bytes.push(0);
            write(blocked, bytes);
        }
        NativeVerdict::Permitted { session } => {
            bytes.push(1);
            write_object(Object::Session(session), bytes);
        }
    })
}

fn encode_begun(begun: Result<NativeBegun, NativeError>) -> Vec<u8> {
    encode(begun, |begun, bytes| match begun {
        NativeBegun::Blocked { blocked } => {
            bytes.push(0);
            write(blocked, bytes);
        }
        NativeBegun::Running { context: NativeContext { decision, credential, halt } } => {
            bytes.push(1);
            write(decision, bytes);
            write(credential, bytes);
            write_object(Object::HaltSignal(halt), bytes);
        }
    })
}

fn encode_report(report: Result<NativeReport, NativeError>) -> Vec<u8> {
    encode(report, |NativeReport { decision, failure, recording }, bytes| {
        write(decision, bytes);
        write(failure, bytes);
        match recording {
            None => bytes.push(0),
            Some(recording) => {
                bytes.push(1);
                write_object(Object::Recording(recording), bytes);
            }
        }
    })
}

/// Runs the body of a native method. A panic or an error becomes the default, null or 0.
fn enter<'env, T: Default>(
    mut env: EnvUnowned<'env>,
    body: impl FnOnce(&mut Env<'env>) -> JniResult<T>,
) -> T {
    match env.with_env(body).into_outcome() {
        Outcome::Ok(result) => result,
        Outcome::Err(_) | Outcome::Panic(_) => T::default(),
    }
}

extern "system" fn authorize<'env>(
    env: EnvUnowned<'env>,
    _class: JClass<'env>,
    _owner: JObject<'env>,
    number: jlong,
    action: JByteArray<'env>,
    record_outcome: jboolean,
    done: JObject<'env>,
) -> jlong {
    enter(env, |env| {
        let action = env.convert_byte_array(action)?;
        let done = Callback::new(env, done)?;
        let prepared =
            client(number).and_then(|calls| Authorization::new(calls, action_of(&action)?, record_outcome));
        Ok(match prepared {
            Ok(authorization) => start(done, authorization.call(), move |authorized| {
                let authorized = authorized.unwrap_or_else(|failure| authorization.for_failure(failure));
                encode_verdict(authorization.verdict(authorized))
            }),
            Err(error) => failed(&done, error),
        })
    })
}

extern "system" fn preflight<'env>(
    env: EnvUnowned<'env>,
    _class: JClass<'env>,
    _owner: JObject<'env>,
    number: jlong,
    action: JByteArray<'env>,
    done: JObject<'env>,
) -> jlong {
    enter(env, |env| {
        let action = env.convert_byte_array(action)?;
        let done = Callback::new(env, done)?;
        Ok(match client(number).and_then(|calls| Ok((calls, action_of(&action)?))) {
            Ok((calls, action)) => {
                start(done, calls.call(async move |actpass| actpass.preflight(&action).await), |decision| {
                    let decision = decision.map_err(NativeError::from);
                    encode(decision, |decision, bytes| write(NativeDecision::from(&decision), bytes))
                })
            }
            Err(error) => failed(&done, error),
        })
    })
}

fn action_of(mut bytes: &[u8]) -> Result<actpass_core::Action, NativeError> {
    convert(read::<NativeAction>(&mut bytes)?)
}

extern "system" fn send<'env>(
    env: EnvUnowned<'env>,
    _class: JClass<'env>,
    _owner: JObject<'env>,
    number: jlong,
    done: JObject<'env>,
) -> jlong {
    enter(env, |env| {
        let done = Callback::new(env, done)?;
        Ok(match recording(number) {
            Ok(recording) => start(done, recording.call(), |recorded| {
                let recorded = recorded.map_err(NativeError::from);
                encode(recorded, |recorded, bytes| write(NativeRecorded::from(&recorded), bytes))
            }),
            Err(error) => failed(&done, error),
        })
    })
}

extern "system" fn take<'env>(env: EnvUnowned<'env>, _class: JClass<'env>, call: jlong) -> JByteArray<'env> {
    enter(env, |env| match take_out(call) {
        Some(Object::Completed(reply)) => env.byte_array_from_slice(&reply()),
        Some(_) | None => Ok(JByteArray::default()),
    })
}

extern "system" fn decision<'env>(
    env: EnvUnowned<'env>,
    _class: JClass<'env>,
    _owner: JObject<'env>,
    number: jlong,
) -> JByteArray<'env> {
    enter(env, |env| {
        let decision = session(number).map(|session| session.decision());
        env.byte_array_from_slice(&encode(decision, write))
    })
}

extern "system" fn spend<'env>(
    env: EnvUnowned<'env>,
    _class: JClass<'env>,
    _owner: JObject<'env>,
    number: jlong,
    args: JByteArray<'env>,
) -> JByteArray<'env> {
    enter(env, |env| {
        let args = env.convert_byte_array(args)?;
        let begun = session(number).and_then(|session| session.spend(read(&mut args.as_slice())?));
        env.byte_array_from_slice(&encode_begun(begun))
    })
}

extern "system" fn finish<'env>(
    env: EnvUnowned<'env>,
    _class: JClass<'env>,
    _owner: JObject<'env>,
    number: jlong,
    end: JByteArray<'env>,
) -> JByteArray<'env> {
    enter(env, |env| {
        let end = env.convert_byte_array(end)?;
        let mut end = end.as_slice();
        let report = session(number)
            .and_then(|session| session.finish(read::<NativeEnded>(&mut end)?, read(&mut end)?));
        env.byte_array_from_slice(&encode_report(report))
    })
}

extern "system" fn is_halted<'env>(
    env: EnvUnowned<'env>,
    _class: JClass<'env>,
    _owner: JObject<'env>,
    number: jlong,
) -> jboolean {
    enter(env, |_| Ok(halt_signal(number).is_none_or(|signal| signal.is_halted())))
}

extern "system" fn on_halt<'env>(
    env: EnvUnowned<'env>,
    _class: JClass<'env>,
    _owner: JObject<'env>,
    number: jlong,
    listener: JObject<'env>,
) {
    enter(env, |env| {
        let listener = Callback::new(env, listener)?;
        if let Some(signal) = halt_signal(number) {
            signal.when_halted(move || listener.run());
        }
        Ok(())
    });
}

extern "system" fn remove_number<'env>(env: EnvUnowned<'env>, _class: JClass<'env>, number: jlong) {
    enter(env, |_| {
        remove(number);
        Ok(())
    });
}

extern "system" fn count<'env>(env: EnvUnowned<'env>, _class: JClass<'env>) -> jlong {
    enter(env, |_| {
        let objects = objects();
        let others = objects.by_number.values().filter(|object| !matches!(object, Object::Client(_)));
        Ok(i64::try_from(others.count()).unwrap_or(jlong::MAX))
    })
}
