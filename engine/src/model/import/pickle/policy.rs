//! Which classes and functions a checkpoint has no business to name.
//!
//! Nothing a pickle names is ever looked up or called here, so a hostile one could be read without harm. It is refused
//! nonetheless: whoever imports it should learn that the file would attack a program that does execute it.

/// Modules, with all that is below them, that start programs, load code, or reach files and networks.
const MODULES: &[&str] = &[
    "_ctypes",
    "_io",
    "_operator",
    "_osx_support",
    "_pickle",
    "_posixsubprocess",
    "_socket",
    "aiohttp",
    "asyncio",
    "bdb",
    "cPickle",
    "cProfile",
    "code",
    "codeop",
    "commands",
    "ctypes",
    "dbm",
    "dill",
    "cloudpickle",
    "distutils",
    "doctest",
    "ensurepip",
    "fileinput",
    "ftplib",
    "http",
    "httplib",
    "httpx",
    "idlelib",
    "imp",
    "importlib",
    "inspect",
    "io",
    "joblib",
    "linecache",
    "marshal",
    "mmap",
    "multiprocessing",
    "nt",
    "ntpath",
    "operator",
    "os",
    "pdb",
    "pickle",
    "pip",
    "pkgutil",
    "platform",
    "popen2",
    "posix",
    "posixpath",
    "profile",
    "pty",
    "pydoc",
    "requests",
    "runpy",
    "setuptools",
    "shelve",
    "shutil",
    "signal",
    "site",
    "smtplib",
    "socket",
    "socketserver",
    "sqlite3",
    "ssl",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "timeit",
    "torch.hub",
    "torch.jit",
    "torch.package",
    "torch.utils.cpp_extension",
    "trace",
    "urllib",
    "urllib2",
    "urllib3",
    "venv",
    "webbrowser",
    "xmlrpc",
    "zipimport",
];

/// Names of otherwise harmless modules.
const NAMES: &[(&str, &str)] = &[
    ("functools", "reduce"),
    ("numpy", "fromfile"),
    ("numpy", "load"),
    ("numpy.testing._private.utils", "runstring"),
    ("torch", "load"),
    ("torch", "compile"),
    ("torch.serialization", "load"),
    ("types", "CodeType"),
    ("types", "FunctionType"),
    ("types", "LambdaType"),
    ("types", "MethodType"),
    ("types", "ModuleType"),
];

/// The only builtins that plain data is made of.
const BUILTINS: &[&str] = &[
    "bool",
    "bytearray",
    "bytes",
    "complex",
    "dict",
    "float",
    "frozenset",
    "int",
    "list",
    "long",
    "object",
    "range",
    "set",
    "slice",
    "str",
    "tuple",
    "type",
    "unicode",
    "xrange",
];

/// Whether no checkpoint needs this class or function.
pub(super) fn is_forbidden(module: &str, name: &str) -> bool {
    if matches!(module, "builtins" | "__builtin__" | "__builtins__") {
        return !BUILTINS.contains(&name);
    }
    // Buffers in memory are data.
    if matches!((module, name), ("io" | "_io", "BytesIO" | "StringIO")) {
        return false;
    }
    let below = |root: &str| module.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    // Attributes such as `__globals__` lead from a harmless class to anything.
    let hidden = name.split('.').any(|part| part.starts_with("__")) && !module.starts_with("copy");
    hidden || MODULES.iter().any(|root| below(root)) || NAMES.contains(&(module, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_code_is_told_from_data() {
        for (module, name) in [
            ("os", "system"),
            ("posix", "system"),
            ("subprocess", "Popen"),
            ("builtins", "eval"),
            ("builtins", "getattr"),
            ("__builtin__", "__import__"),
            ("os.path", "join"),
            ("collections", "OrderedDict.__init__.__globals__"),
            ("torch.hub", "load"),
            ("torch", "load"),
            ("io", "open"),
            ("_io", "FileIO"),
        ] {
            assert!(is_forbidden(module, name), "{module}.{name}");
        }
        for (module, name) in [
            ("collections", "OrderedDict"),
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch", "FloatStorage"),
            ("copy_reg", "_reconstructor"),
            ("copyreg", "__newobj__"),
            ("builtins", "set"),
            ("pytorch_lightning.utilities.parsing", "AttributeDict"),
            ("lightning_fabric.utilities.data", "AttributeDict"),
            ("argparse", "Namespace"),
            ("pathlib", "PosixPath"),
            ("omegaconf.dictconfig", "DictConfig"),
            ("numpy.core.multiarray", "scalar"),
            ("types", "SimpleNamespace"),
            ("oscar", "Model"),
            ("_io", "BytesIO"),
        ] {
            assert!(!is_forbidden(module, name), "{module}.{name}");
        }
    }
}
