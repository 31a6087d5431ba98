//! Registers the native methods and calls the JVM. All unsafe code of the bridge is in this file.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::sync::OnceLock;

use jni::objects::{Global, JClass, JMethodID, JObject};
use jni::signature::{Primitive, ReturnType};
use jni::sys::{JNI_OK, JNI_VERSION_1_8, JavaVMAttachArgs};
use jni::{Env, EnvUnowned, JavaVM, NativeMethod, Outcome, jni_sig, jni_str};

use super::JniResult;

/// The method `run` of `java.lang.Runnable`, which is never unloaded.
static RUN: OnceLock<JMethodID> = OnceLock::new();

/// Registers the native methods of the class `Jvm`, and returns 0, or 1 if that fails. `Jvm.kt`
/// calls it through JNA, which loaded the library: `System.load` would need its file, and fails for
/// a second class loader.
#[unsafe(no_mangle)]
extern "C" fn actpass_jvm_register<'env>(mut env: EnvUnowned<'env>, class: JClass<'env>) -> i32 {
    match env.with_env(|env| register(env, class)).into_outcome() {
        Outcome::Ok(()) => 0,
        Outcome::Err(_) | Outcome::Panic(_) => 1,
    }
}

fn register<'env>(env: &mut Env<'env>, class: JClass<'env>) -> JniResult<()> {
    let run = env.get_method_id(jni_str!("java/lang/Runnable"), jni_str!("run"), jni_sig!("()V"))?;
    RUN.get_or_init(|| run);
    macro_rules! method {
        ($name:literal, $signature:literal, $function:ident) => {
            // SAFETY: the function takes and returns the types of the signature.
            unsafe {
                NativeMethod::from_raw_parts(
                    jni_str!($name),
                    jni_str!($signature),
                    super::$function as *mut c_void,
                )
            }
        };
    }
    let methods = [
        method!("authorize", "(Ljava/lang/Object;J[BZLjava/lang/Runnable;)J", authorize),
        method!("preflight", "(Ljava/lang/Object;J[BLjava/lang/Runnable;)J", preflight),
        method!("send", "(Ljava/lang/Object;JLjava/lang/Runnable;)J", send),
        method!("take", "(J)[B", take),
        method!("decision", "(Ljava/lang/Object;J)[B", decision),
        method!("spend", "(Ljava/lang/Object;J[B)[B", spend),
        method!("finish", "(Ljava/lang/Object;J[B)[B", finish),
        method!("isHalted", "(Ljava/lang/Object;J)Z", is_halted),
        method!("onHalt", "(Ljava/lang/Object;JLjava/lang/Runnable;)V", on_halt),
        method!("remove", "(J)V", remove_number),
        method!("count", "()J", count),
    ];
    // SAFETY: the methods are static, and each function takes the class second.
    unsafe { env.register_native_methods(class, &methods) }
}

/// A `Runnable` of the JVM. Holds a global reference, which its drop deletes.
pub(super) struct Callback(Global<JObject<'static>>);

impl Callback {
    pub(super) fn new<'env>(env: &Env<'env>, runnable: JObject<'env>) -> JniResult<Self> {
        Ok(Self(env.new_global_ref(runnable)?))
    }

    /// Runs it on this thread. There is no caller that could handle an exception of it.
    pub(super) fn run(&self) {
        let _: JniResult<()> = JavaVM::singleton().and_then(|vm| {
            attach_as_daemon(&vm)?;
            vm.attach_current_thread(|env| {
                let run = RUN.get().ok_or(jni::errors::Error::UninitializedJavaVM)?;
                // SAFETY: the signature of `Jvm` makes the object a `Runnable`, whose `run` takes
                // and returns nothing.
                unsafe {
                    env.call_method_unchecked(&self.0, run, ReturnType::Primitive(Primitive::Void), &[])
                }?;
                Ok(())
            })
        });
    }
}

/// Attaches this thread if it is not attached, so that it does not keep the JVM from exiting, until
/// the thread ends.
fn attach_as_daemon(vm: &JavaVM) -> JniResult<()> {
    thread_local! {
        static ATTACHED: Cell<Option<Attached>> = const { Cell::new(None) };
    }
    if vm.is_thread_attached()? {
        return Ok(());
    }
    let raw = vm.get_raw();
    let mut arguments = JavaVMAttachArgs {
        version: JNI_VERSION_1_8,
        name: c"actpass".as_ptr().cast_mut(),
        group: ptr::null_mut(),
    };
    let mut env = ptr::null_mut();
    // SAFETY: `raw` is the JVM of the process, and the arguments are valid during the call.
    let status =
        unsafe { ((**raw).v1_4.AttachCurrentThreadAsDaemon)(raw, &raw mut env, (&raw mut arguments).cast()) };
    if status != JNI_OK {
        return Err(jni::errors::Error::JniCall(jni::errors::JniError::ThreadDetached));
    }
    ATTACHED.set(Some(Attached(vm.clone())));
    Ok(())
}

/// Detaches a thread when it ends.
struct Attached(JavaVM);

impl Drop for Attached {
    fn drop(&mut self) {
        let raw = self.0.get_raw();
        // SAFETY: `raw` is the JVM of the process, and no Java code is on the stack of a thread that
        // ends.
        unsafe { ((**raw).v1_4.DetachCurrentThread)(raw) };
    }
}
