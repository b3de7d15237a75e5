//! Fields whose place has not changed in any version with a table (`object.h`, `dictobject.h`, `pycore_gil.h`,
//! `descrobject.h`, `methodobject.h`), and those of structures that only some versions have.

/// `PyObject.ob_type`.
pub(crate) const TYPE: u64 = 8;
/// `PyVarObject.ob_size`, and the first field of most objects.
pub(crate) const SIZE: u64 = 16;
/// `PyTypeObject.tp_name`.
pub(crate) const TYPE_NAME: u64 = 24;
/// `PyTypeObject.tp_basicsize`.
pub(crate) const TYPE_BASIC_SIZE: u64 = 32;
/// `PyTypeObject.tp_flags`.
pub(crate) const TYPE_FLAGS: u64 = 168;
/// `PyTypeObject.tp_dict`.
pub(crate) const TYPE_DICT: u64 = 264;
/// `PyTypeObject.tp_dictoffset`.
pub(crate) const TYPE_DICT_OFFSET: u64 = 288;
/// `PyTypeObject.tp_mro`.
pub(crate) const TYPE_MRO: u64 = 344;
/// `Py_TPFLAGS_HEAPTYPE`.
pub(crate) const FLAG_HEAP_TYPE: u64 = 1 << 9;
/// `Py_TPFLAGS_INLINE_VALUES`.
pub(crate) const FLAG_INLINE_VALUES: u64 = 1 << 2;
/// `Py_TPFLAGS_MANAGED_DICT`.
pub(crate) const FLAG_MANAGED_DICT: u64 = 1 << 4;
/// `PyBytesObject.ob_sval`.
pub(crate) const BYTES_DATA: u64 = 32;
/// `PyASCIIObject.state`.
pub(crate) const UNICODE_STATE: u64 = 32;
/// `PyDictObject.ma_keys`.
pub(crate) const DICT_KEYS: u64 = 32;
/// `PyDictObject.ma_values`.
pub(crate) const DICT_VALUES: u64 = 40;
/// `PyDictKeysObject.dk_log2_index_bytes`.
pub(crate) const KEYS_LOG2_INDEX_BYTES: u64 = 9;
/// `PyDictKeysObject.dk_kind`.
pub(crate) const KEYS_KIND: u64 = 10;
/// `PyDictKeysObject.dk_nentries`.
pub(crate) const KEYS_COUNT: u64 = 24;
/// `PyDictKeysObject.dk_indices`.
pub(crate) const KEYS_INDICES: u64 = 32;
/// `PyDictKeysObject.dk_size` (up to 3.10).
pub(crate) const OLD_KEYS_SIZE: u64 = 8;
/// `PyDictKeysObject.dk_nentries` (up to 3.10).
pub(crate) const OLD_KEYS_COUNT: u64 = 32;
/// `PyDictKeysObject.dk_indices` (up to 3.10).
pub(crate) const OLD_KEYS_INDICES: u64 = 40;
/// `PyListObject.ob_item`.
pub(crate) const LIST_ITEMS: u64 = 24;
/// `dequeobject.leftblock` (Modules/_collectionsmodule.c).
pub(crate) const DEQUE_BLOCK: u64 = 24;
/// `dequeobject.leftindex`.
pub(crate) const DEQUE_INDEX: u64 = 40;
/// Items of a block of a deque, after its pointer to the left.
pub(crate) const DEQUE_BLOCK_LENGTH: u64 = 64;
/// `PySetObject.mask`.
pub(crate) const SET_MASK: u64 = 32;
/// `PySetObject.table`.
pub(crate) const SET_TABLE: u64 = 40;
/// `PyWeakReference.wr_object`.
pub(crate) const WEAKREF_OBJECT: u64 = 16;
/// `PyMemberDescrObject.d_member`.
pub(crate) const MEMBER_DEFINITION: u64 = 40;
/// `PyMemberDef.type`.
pub(crate) const MEMBER_TYPE: u64 = 8;
/// `PyMemberDef.offset`.
pub(crate) const MEMBER_OFFSET: u64 = 16;
/// `PyDescrObject.d_type`.
pub(crate) const DESCRIPTOR_CLASS: u64 = 16;
/// `PyDescrObject.d_name`.
pub(crate) const DESCRIPTOR_NAME: u64 = 24;
/// `PyCFunctionObject.m_ml`; the definition begins with its name.
pub(crate) const C_FUNCTION_DEFINITION: u64 = 16;
/// `PyCFunctionObject.m_self`.
pub(crate) const C_FUNCTION_SELF: u64 = 24;
/// `PyCFunctionObject.m_module`.
pub(crate) const C_FUNCTION_MODULE: u64 = 32;
/// `partialobject.fn`; arguments and keywords follow.
pub(crate) const PARTIAL_FUNCTION: u64 = 16;
/// `args` of it.
pub(crate) const PARTIAL_ARGUMENTS: u64 = 24;
/// `PyMethodObject.im_func`.
pub(crate) const METHOD_FUNCTION: u64 = 16;
/// `PyMethodObject.im_self`.
pub(crate) const METHOD_SELF: u64 = 24;
/// `wrapperobject.descr` (`method-wrapper`).
pub(crate) const WRAPPER_DESCRIPTOR: u64 = 16;
/// `wrapperobject.self`.
pub(crate) const WRAPPER_SELF: u64 = 24;
/// `PyModuleObject.md_dict`.
pub(crate) const MODULE_DICT: u64 = 16;
/// `PyCellObject.ob_ref`.
pub(crate) const CELL_VALUE: u64 = 16;
/// First digit of an int.
pub(crate) const INT_DIGITS: u64 = 24;
/// `_gil_runtime_state.last_holder`.
pub(crate) const GIL_HOLDER: u64 = 8;
/// `_gil_runtime_state.locked`.
pub(crate) const GIL_LOCKED: u64 = 16;
/// `_gil_runtime_state.switch_number`.
pub(crate) const GIL_SWITCHES: u64 = 24;
/// `_gil_runtime_state.cond`, where waiters sleep; `mutex` and `switch_cond` follow.
pub(crate) const GIL_WAIT_FIRST: u64 = 32;
/// End of `_gil_runtime_state`.
pub(crate) const GIL_END: u64 = 208;
/// The mutex or semaphore pointer of a `_thread.lock` or `_thread.RLock`.
pub(crate) const LOCK_BODY: u64 = 16;
/// `_thread.RLock`'s owner (`pthread_t`).
pub(crate) const RLOCK_OWNER: u64 = 24;
/// `_thread.RLock`'s count: times taken (up to 3.13), times taken again (3.14+).
pub(crate) const RLOCK_COUNT: u64 = 32;
/// `_multiprocessing.SemLock`'s `handle`, a `sem_t*`.
pub(crate) const SEMLOCK_HANDLE: u64 = 16;
/// `_multiprocessing.SemLock`'s `last_tid` (`pthread_t`).
pub(crate) const SEMLOCK_LAST_THREAD: u64 = 24;
/// `_multiprocessing.SemLock`'s `count`: times that this process holds it.
pub(crate) const SEMLOCK_COUNT: u64 = 32;
/// `_multiprocessing.SemLock`'s `maxvalue`: how often it can be taken at a time.
pub(crate) const SEMLOCK_MAX: u64 = 36;
/// `ThreadHandle.ident` (3.13+).
pub(crate) const HANDLE_IDENT: u64 = 32;
/// `ThreadHandle.thread_is_exiting`, which joiners park on (3.13+).
pub(crate) const HANDLE_EXITING: u64 = 57;
