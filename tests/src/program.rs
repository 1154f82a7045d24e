//! Finding the programs of the servers.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The path of `name`, from `PATH`; panics with the name of the `package` that has it.
pub(crate) fn find(name: &str, package: &str) -> PathBuf {
    find_in(search_path(), name, package)
}

/// As [`find`], but for PostgreSQL, whose Debian packages keep each version's programs out of `PATH`.
pub(crate) fn find_postgres(name: &str) -> PathBuf {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));

    let folders = versions.into_iter().map(|(_, folder)| folder.join("bin"));
    find_in(folders.chain(search_path()), name, "postgresql")
}

fn search_path() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian keeps some servers where only root's PATH looks.
    let folders: Vec<PathBuf> = env::split_paths(&path).chain(["/usr/sbin".into()]).collect();
    folders.into_iter()
}

fn find_in(folders: impl Iterator<Item = PathBuf>, name: &str, package: &str) -> PathBuf {
    folders.map(|folder| folder.join(name)).find(|program| Path::is_file(program)).unwrap_or_else(|| {
        panic!("`{name}` is not installed: install the system's package `{package}`, or let `tests/run` do it")
    })
}

#[cfg(test)]
mod tests {
    #[test]
    #[should_panic(expected = "`no-such-server` is not installed: install the system's package `no-such-package`")]
    fn a_missing_program_fails_with_the_name_of_its_package() {
        super::find("no-such-server", "no-such-package");
    }
}
