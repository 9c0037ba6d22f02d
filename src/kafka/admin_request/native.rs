//! Texts, arrays and errors of librdkafka's results as plain values.
#![expect(unsafe_code, reason = "the C API of librdkafka")]

use std::ffi::{CStr, CString, c_char};

use rdkafka_sys as sys;

use super::Changes;
use crate::kafka::Error;

/// # Errors
///
/// A text with a NUL byte.
pub(super) fn native(text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| {
        let code = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__INVALID_ARG;
        Error::new(code, format!("{text:?} has a NUL byte"))
    })
}

pub(super) fn natives(texts: &[String]) -> Result<Vec<CString>, Error> {
    texts.iter().map(|text| native(text)).collect()
}

/// `None` for null.
///
/// # Safety
/// The pointer is null or a live text.
pub(super) unsafe fn text(pointer: *const c_char) -> Option<String> {
    // SAFETY: by the contract.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer).to_string_lossy().into_owned() })
}

/// Asks `get` for an array, and reads each of its pointers.
///
/// # Safety
/// `get` returns an array with as many live pointers as it says, or says 0.
pub(super) unsafe fn all<T, R>(
    get: impl FnOnce(*mut usize) -> *mut *const T,
    read: impl Fn(*const T) -> R,
) -> Vec<R> {
    let mut count = 0;
    let array = get(&raw mut count);
    // SAFETY: by the contract.
    (0..count)
        .map(|index| read(unsafe { *array.add(index) }))
        .collect()
}

/// # Safety
/// The pointer is null or a live error.
pub(super) unsafe fn check(error: *const sys::rd_kafka_error_t) -> Result<(), Error> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: by the contract.
    unsafe {
        let code = sys::rd_kafka_error_code(error);
        Error::check(code).map_err(|_| {
            let sentence = text(sys::rd_kafka_error_string(error));
            Error::new(code, sentence.unwrap_or_default())
        })
    }
}

/// # Safety
/// The text is null or live.
pub(super) unsafe fn check_with(
    code: sys::rd_kafka_resp_err_t,
    sentence: *const c_char,
) -> Result<(), Error> {
    // SAFETY: by the contract.
    Error::check(code).map_err(|_| Error::new(code, unsafe { text(sentence) }.unwrap_or_default()))
}

/// # Safety
/// As for `all`.
pub(super) unsafe fn topics(
    get: impl FnOnce(*mut usize) -> *mut *const sys::rd_kafka_topic_result_t,
) -> Changes {
    let read = |one| {
        // SAFETY: the result is alive, and so are its texts.
        unsafe {
            let name = text(sys::rd_kafka_topic_result_name(one));
            let code = sys::rd_kafka_topic_result_error(one);
            let sentence = sys::rd_kafka_topic_result_error_string(one);
            (name.unwrap_or_default(), check_with(code, sentence))
        }
    };
    // SAFETY: by the contract.
    unsafe { all(get, read) }
}

/// The id of a broker; -1 for none.
///
/// # Safety
/// The pointer is null or a live node.
pub(super) unsafe fn node_id(node: *const sys::rd_kafka_Node_t) -> i32 {
    if node.is_null() {
        return -1;
    }
    // SAFETY: by the contract.
    unsafe { sys::rd_kafka_Node_id(node) }
}

/// A buffer for librdkafka's sentence about an argument.
pub(super) struct Sentence([c_char; 512]);

impl Sentence {
    pub(super) fn new() -> Self {
        Self([0; 512])
    }

    pub(super) fn parts(&mut self) -> (*mut c_char, usize) {
        (self.0.as_mut_ptr(), self.0.len())
    }

    pub(super) fn error(&self, code: sys::rd_kafka_resp_err_t) -> Error {
        // SAFETY: librdkafka ends what it writes with a NUL byte, and the buffer begins as one.
        let sentence = unsafe { text(self.0.as_ptr()) };
        Error::new(code, sentence.unwrap_or_default())
    }
}

/// Objects of librdkafka that are made for one request, and destroyed after it.
pub(super) struct Owned<T> {
    objects: Vec<*mut T>,
    destroy: unsafe extern "C" fn(*mut *mut T, usize),
}

impl<T> Owned<T> {
    /// # Safety
    /// `destroy` destroys what is pushed.
    pub(super) unsafe fn new(destroy: unsafe extern "C" fn(*mut *mut T, usize)) -> Self {
        Self {
            objects: Vec::new(),
            destroy,
        }
    }

    pub(super) fn push(&mut self, object: *mut T) {
        self.objects.push(object);
    }

    pub(super) fn parts(&mut self) -> (*mut *mut T, usize) {
        (self.objects.as_mut_ptr(), self.objects.len())
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        let (objects, count) = self.parts();
        // SAFETY: the objects are alive, and destroyed only here.
        unsafe { (self.destroy)(objects, count) };
    }
}
