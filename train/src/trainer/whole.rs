//! Files that are whole under their name or not there.

use std::io::Write;
use std::path::Path;

use super::CheckpointError;

/// What a file is called until it is whole begins so.
const UNFINISHED: &str = ".writing-";

/// Writes a file so that it is whole under its name or not there.
///
/// # Errors
/// [`CheckpointError::Io`].
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        }
        file.persist(path).map_err(|error| error.error)?;
        // The name is on the disk once its folder is.
        #[cfg(unix)]
        std::fs::File::open(folder)?.sync_all()?;
        Ok(())
    };
    write().map_err(CheckpointError::io(path))
}

/// Removes what a process that was killed in [`write_whole`] has left in a folder. Nobody else may be writing there.
///
/// # Errors
/// [`CheckpointError::Io`].
pub(super) fn remove_unfinished(folder: &Path) -> Result<(), CheckpointError> {
    for entry in std::fs::read_dir(folder).map_err(CheckpointError::io(folder))? {
        let entry = entry.map_err(CheckpointError::io(folder))?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            std::fs::remove_file(entry.path()).map_err(CheckpointError::io(&entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_finished_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        write_whole(&folder.path().join("kept"), b"whole").unwrap();
        std::fs::write(folder.path().join(".writing-abc"), b"ha").unwrap();
        remove_unfinished(folder.path()).unwrap();
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["kept"]);
        assert_eq!(std::fs::read(folder.path().join("kept")).unwrap(), b"whole");
    }
}
