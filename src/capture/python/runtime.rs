//! Finding `_PyRuntime` in a process, and which version it is.

use super::offsets::{self, Offsets};
use crate::capture::elf::ElfError;
use crate::capture::maps::Maps;
use crate::capture::memory::CachedMemory;

/// `_Py_DebugOffsets.cookie`.
const COOKIE: &[u8; 8] = b"xdebugpy";

/// A CPython found in a process.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    pub(crate) major: u8,
    pub(crate) minor: u8,
    /// Micro version and release level, where they can be read.
    pub(crate) rest: Option<String>,
    pub(crate) free_threaded: bool,
    /// Address of `_PyRuntime`; absent before 3.7.
    pub(crate) address: Option<u64>,
    /// The fields' places; absent for versions without a table.
    pub(crate) offsets: Option<Offsets>,
}

impl Runtime {
    /// Version as text.
    pub(crate) fn version(&self) -> String {
        let rest = self.rest.as_deref().unwrap_or("?");
        format!("{}.{}.{rest}", self.major, self.minor)
    }
}

/// What a process turned out to be.
#[derive(Debug)]
pub(crate) enum Located {
    Python(Box<Runtime>),
    NotPython,
    /// A 32-bit program.
    Bits32,
    /// Its program could not be opened.
    Unreadable(String),
}

/// Looks for CPython in the files that a process has mapped.
pub(crate) fn locate(maps: &Maps, memory: &CachedMemory<'_>) -> Located {
    let mut trouble = None;
    for module in maps.python_candidates() {
        let file = match module.open() {
            Ok(file) => file,
            Err(ElfError::Bits32) => return Located::Bits32,
            Err(error) => {
                trouble.get_or_insert_with(|| format!("{}: {error}", module.open_path));
                continue;
            }
        };
        let bias = file.bias(module.first_mapping);
        let section = file.section(b".PyRuntime");
        let address = section
            .or_else(|| file.exported(b"_PyRuntime"))
            .map(|address| address.wrapping_add(bias));
        if address.is_none() && file.exported(b"Py_Main").is_none() {
            continue;
        }
        let version_constant = file.exported(b"Py_Version").map(|a| a.wrapping_add(bias));
        return match identify(address, version_constant, &module.name, memory) {
            Some(runtime) => Located::Python(Box::new(runtime)),
            None => Located::Unreadable(format!(
                "{}: a Python whose version could not be read",
                module.open_path
            )),
        };
    }
    trouble.map_or(Located::NotPython, Located::Unreadable)
}

fn identify(
    address: Option<u64>,
    version_constant: Option<u64>,
    file_name: &str,
    memory: &CachedMemory<'_>,
) -> Option<Runtime> {
    let cookie = address.and_then(|address| memory.bytes(address, 24).ok());
    if let Some(head) = cookie.filter(|head| head.starts_with(COOKIE)) {
        let word = |at: usize| {
            let bytes: [u8; 8] = head.get(at..at + 8)?.try_into().ok()?;
            Some(u64::from_le_bytes(bytes))
        };
        let mut runtime = from_hex(u32::try_from(word(8)?).ok()?, address)?;
        runtime.free_threaded = word(16)? != 0;
        if let Some(length) = offsets::table_length(runtime.minor) {
            let table = memory.bytes(address?, length).ok()?;
            runtime.offsets = runtime
                .offsets
                .as_ref()
                .and_then(|base| offsets::corrected(base, &table));
        }
        return Some(runtime);
    }
    if let Some(hex) = version_constant.and_then(|at| memory.u32(at).ok()) {
        return from_hex(hex, address);
    }
    let (major, minor) = version_in_name(file_name)?;
    Some(Runtime {
        major,
        minor,
        rest: None,
        free_threaded: false,
        address,
        offsets: address.and_then(|_| offsets::for_minor(minor)),
    })
}

/// From a `PY_VERSION_HEX`.
fn from_hex(hex: u32, address: Option<u64>) -> Option<Runtime> {
    let [major, minor, micro, level] = hex.to_be_bytes();
    let release = match level >> 4 {
        0xa => format!("a{}", level & 15),
        0xb => format!("b{}", level & 15),
        0xc => format!("rc{}", level & 15),
        0xf => String::new(),
        _ => return None,
    };
    (major == 3).then(|| Runtime {
        major,
        minor,
        rest: Some(format!("{micro}{release}")),
        free_threaded: false,
        address,
        offsets: offsets::for_minor(minor),
    })
}

/// The version in a name like `python3.9` or `libpython3.10.so.1.0`.
fn version_in_name(name: &str) -> Option<(u8, u8)> {
    let at = name.rfind("python")? + "python".len();
    let mut numbers = name.get(at..)?.split('.');
    let major = numbers.next()?.parse().ok()?;
    let digits: String = numbers
        .next()?
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    Some((major, digits.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_from_names() {
        assert_eq!(version_in_name("python3.9"), Some((3, 9)));
        assert_eq!(version_in_name("libpython3.10.so.1.0"), Some((3, 10)));
        assert_eq!(version_in_name("libpython3.6m.so.1.0"), Some((3, 6)));
        assert_eq!(version_in_name("python"), None);
        assert_eq!(version_in_name("python3"), None);
    }

    #[test]
    fn versions_from_hex() {
        let text = |hex| from_hex(hex, None).map(|runtime| runtime.version());
        assert_eq!(text(0x030e_0af0), Some("3.14.10".to_owned()));
        assert_eq!(text(0x030f_00b2), Some("3.15.0b2".to_owned()));
        assert_eq!(text(0x7fff_0000), None);
    }
}
