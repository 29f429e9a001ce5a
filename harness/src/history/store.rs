//! The file that results are kept in: SQLite, schema in `schema-1.sql`.
//!
//! # Several processes at once
//! A run is one transaction, and it begins as a writer (`BEGIN IMMEDIATE`), so two that save at once come one after the
//! other, each waiting up to [`BUSY_WAIT`]. The file is in WAL mode: who reads does not wait. Where the file system has
//! no shared memory for that (some network folders), SQLite keeps its rollback journal, and readers wait as well.
//!
//! # Whose file it is
//! `application_id` says that the file is ours, `user_version` which schema it has. A file of something else is never
//! written to, one of a later schema neither.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use serde::Serialize;
use serde_json::Value;

use crate::error::Error;

/// The schema that this version writes.
pub const SCHEMA_VERSION: i64 = 1;

/// How long who finds the file in use waits for it.
pub const BUSY_WAIT: Duration = Duration::from_secs(30);

/// `clt1` in ASCII, in SQLite's header.
const APPLICATION_ID: i64 = 0x636c_7431;

const SCHEMA: &str = include_str!("schema-1.sql");

/// An open history.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
}

/// What is saved of a run.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a, M, C, R> {
    /// The machine, as the JSON has it.
    pub machine: &'a M,
    /// The settings, as the JSON has them.
    pub config: &'a C,
    /// The results, one a row.
    pub results: &'a [R],
    /// The seed that its traffic was drawn with.
    pub seed: u64,
    /// It was ended by Ctrl-C.
    pub interrupted: bool,
}

/// A result as it was saved, with what its run was.
#[derive(Clone, PartialEq, Debug)]
pub struct Saved {
    /// Number of the run.
    pub run: i64,
    /// When it was saved: RFC 3339, UTC.
    pub saved_at: String,
    /// The run was ended by Ctrl-C.
    pub interrupted: bool,
    /// The machine, as the JSON had it.
    pub machine: Value,
    /// The settings, as the JSON had them.
    pub config: Value,
    /// The result, as the JSON had it.
    pub result: Value,
}

/// Which results are wanted. An empty list wants all.
#[derive(Clone, Default, Debug)]
pub struct Wanted {
    /// Names of workloads.
    pub workloads: Vec<String>,
    /// Names of tables.
    pub tables: Vec<String>,
}

impl Store {
    /// Opens a history to save in it; makes the file and its folder where there are none. That it can be written to is
    /// tried here, so that nobody measures first and fails then.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be opened or written; [`Error::Input`] when it is something else, or of a later
    /// version.
    pub fn to_save(path: &Path) -> Result<Store, Error> {
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|source| Error::File {
                action: "create the folder",
                path: folder.to_owned(),
                source,
            })?;
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let mut store = Store::open(path, flags)?;
        store.schema()?;
        let prepared = store.prepare();
        prepared.map_err(|error| store.failed(error))?;
        Ok(store)
    }

    /// Opens a history that is there, to read it.
    ///
    /// # Errors
    /// As for [`Store::to_save`]; [`Error::Input`] for a file that is not there or has nothing in it, too.
    pub fn to_read(path: &Path) -> Result<Store, Error> {
        let nothing = |problem: &str| Error::Input {
            place: path.display().to_string(),
            problem: problem.to_owned(),
            remedy: "`clashtrack run … --save` keeps results there; --file names another file"
                .to_owned(),
        };
        if !path.exists() {
            return Err(nothing("there is no such file"));
        }
        let store = Store::open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        match store.schema()? {
            Schema::Ours => Ok(store),
            Schema::None => Err(nothing("nothing was ever saved in it")),
        }
    }

    fn open(path: &Path, flags: OpenFlags) -> Result<Store, Error> {
        // SQLite calls that a disk's fault.
        if path.is_dir() {
            return Err(Error::Input {
                place: path.display().to_string(),
                problem: "this is a folder".to_owned(),
                remedy: "name a file in it".to_owned(),
            });
        }
        // Without URIs: a name is a name, also one that begins with `file:`.
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection =
            Connection::open_with_flags(path, flags).map_err(|error| failed(path, error))?;
        let store = Store {
            connection,
            path: path.to_owned(),
        };
        let waits = store.connection.busy_timeout(BUSY_WAIT);
        waits.map_err(|error| store.failed(error))?;
        Ok(store)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says it is.
    fn schema(&self) -> Result<Schema, Error> {
        let seen = self.header().map_err(|error| self.failed(error))?;
        let refused = |problem: String, remedy: &str| Error::Input {
            place: self.path.display().to_string(),
            problem,
            remedy: remedy.to_owned(),
        };
        match seen {
            [APPLICATION_ID, SCHEMA_VERSION, _] => Ok(Schema::Ours),
            [0, 0, 0] => Ok(Schema::None),
            [APPLICATION_ID, later, _] => Err(refused(
                format!(
                    "this history has schema version {later}, and this clashtrack knows {SCHEMA_VERSION}"
                ),
                "use the clashtrack that wrote it, or name another file",
            )),
            _ => Err(refused(
                "this SQLite database is something else's, no history of clashtrack".to_owned(),
                "name another file",
            )),
        }
    }

    /// Application, schema version, and how many tables and indices there are.
    fn header(&self) -> rusqlite::Result<[i64; 3]> {
        // One transaction, so one moment: another process may be making the tables.
        let transaction = self.connection.unchecked_transaction()?;
        let number = |sql: &str| transaction.query_row(sql, [], |row| row.get(0));
        Ok([
            number("PRAGMA application_id")?,
            number("PRAGMA user_version")?,
            number("SELECT count(*) FROM sqlite_schema")?,
        ])
    }

    /// Makes the tables where there are none, and tries that the file can be written to.
    fn prepare(&mut self) -> rusqlite::Result<()> {
        self.connection.pragma_update(None, "foreign_keys", true)?;
        // The file keeps it. Somebody else may be at work in it just now: then the next one sets it, all works without.
        let mode = self
            .connection
            .pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()));
        mode.or_else(|error| match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy) => Ok(()),
            _ => Err(error),
        })?;
        // Begins as a writer: a file that may only be read refuses here.
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version: i64 = transaction.pragma_query_value(None, "user_version", |r| r.get(0))?;
        // Looked at again under the lock: another process may have made the tables meanwhile.
        if version == 0 {
            transaction.execute_batch(SCHEMA)?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        }
        transaction.commit()
    }

    /// Saves a run, whole or not at all, and returns its number.
    ///
    /// # Errors
    /// [`Error::File`] when the file cannot be written.
    pub fn save<M, C, R>(&mut self, run: &Run<'_, M, C, R>) -> Result<i64, Error>
    where
        M: Serialize,
        C: Serialize,
        R: Serialize,
    {
        let number = insert(&mut self.connection, run);
        number.map_err(|error| self.failed(error))
    }

    /// The wanted results, in the order in which their runs were saved.
    ///
    /// # Errors
    /// [`Error::File`] when the file cannot be read; [`Error::Input`] for a row that is no JSON.
    pub fn results(&self, wanted: &Wanted) -> Result<Vec<Saved>, Error> {
        let rows = self.texts(wanted).map_err(|error| self.failed(error))?;
        rows.into_iter().map(|row| self.parsed(row)).collect()
    }

    /// The names of one kind that the file has, `workload` or `table_name`.
    fn names(&self, column: &str) -> rusqlite::Result<Vec<String>> {
        let mut statement = self.connection.prepare(&format!(
            "SELECT DISTINCT {column} FROM results ORDER BY {column}"
        ))?;
        statement.query_map([], |row| row.get(0))?.collect()
    }

    /// Names of the workloads that were saved.
    ///
    /// # Errors
    /// [`Error::File`] when the file cannot be read.
    pub fn workloads(&self) -> Result<Vec<String>, Error> {
        self.names("workload").map_err(|error| self.failed(error))
    }

    /// Names of the tables that were saved.
    ///
    /// # Errors
    /// [`Error::File`] when the file cannot be read.
    pub fn tables(&self) -> Result<Vec<String>, Error> {
        self.names("table_name").map_err(|error| self.failed(error))
    }

    fn texts(&self, wanted: &Wanted) -> rusqlite::Result<Vec<Texts>> {
        let mut statement = self.connection.prepare(
            "SELECT runs.id, saved_at, interrupted, machine, config, result
             FROM results JOIN runs ON runs.id = results.run
             WHERE (?1 = '[]' OR workload IN (SELECT value FROM json_each(?1)))
               AND (?2 = '[]' OR table_name IN (SELECT value FROM json_each(?2)))
             ORDER BY saved_at, runs.id, results.id",
        )?;
        let lists = [&wanted.workloads, &wanted.tables].map(|names| Value::from(names.clone()));
        let rows = statement.query_map(lists.map(|list| list.to_string()), |row| {
            Ok(Texts {
                run: row.get(0)?,
                saved_at: row.get(1)?,
                interrupted: row.get(2)?,
                json: [row.get(3)?, row.get(4)?, row.get(5)?],
            })
        })?;
        rows.collect()
    }

    fn parsed(&self, row: Texts) -> Result<Saved, Error> {
        let parse = |text: &String| {
            serde_json::from_str(text).map_err(|error| Error::Input {
                place: format!("{}: run {}", self.path.display(), row.run),
                problem: format!("this is no JSON: {error}"),
                remedy: "delete that run, or name another file".to_owned(),
            })
        };
        let [machine, config, result] = &row.json;
        Ok(Saved {
            machine: parse(machine)?,
            config: parse(config)?,
            result: parse(result)?,
            run: row.run,
            saved_at: row.saved_at,
            interrupted: row.interrupted,
        })
    }

    fn failed(&self, error: rusqlite::Error) -> Error {
        failed(&self.path, error)
    }
}

/// What a file is, if it is not refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Schema {
    /// A history of this version.
    Ours,
    /// An empty file, or one that was just made.
    None,
}

/// A row as the file has it.
struct Texts {
    run: i64,
    saved_at: String,
    interrupted: bool,
    /// Machine, settings, result.
    json: [String; 3],
}

fn insert<M: Serialize, C: Serialize, R: Serialize>(
    connection: &mut Connection,
    run: &Run<'_, M, C, R>,
) -> rusqlite::Result<i64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute(
        "INSERT INTO runs (interrupted, machine, config, seed) VALUES (?1, ?2, ?3, ?4)",
        (
            run.interrupted,
            json(run.machine)?,
            json(run.config)?,
            run.seed.to_string(),
        ),
    )?;
    let number = transaction.last_insert_rowid();
    {
        let mut statement =
            transaction.prepare("INSERT INTO results (run, result) VALUES (?1, ?2)")?;
        for result in run.results {
            statement.execute((number, json(result)?))?;
        }
    }
    transaction.commit()?;
    Ok(number)
}

fn json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

/// SQLite's words with the file's name, and what can be done.
fn failed(path: &Path, error: rusqlite::Error) -> Error {
    let input = |problem: &str, remedy: &str| Error::Input {
        place: path.display().to_string(),
        problem: problem.to_owned(),
        remedy: remedy.to_owned(),
    };
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => input(
            "this is no SQLite database",
            "name another file, or move this one away",
        ),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => input(
            &format!(
                "another process has held it for more than {} s",
                BUSY_WAIT.as_secs()
            ),
            "wait for that process, or end it",
        ),
        _ => Error::File {
            action: "use this history",
            path: path.to_owned(),
            source: std::io::Error::other(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(results: &[Value]) -> Run<'_, Value, Value, Value> {
        Run {
            machine: &Value::Null,
            config: &Value::Null,
            results,
            seed: u64::MAX,
            interrupted: false,
        }
    }

    fn result(workload: &str, table: &str) -> Value {
        json!({"workload": workload, "table": table, "ns_per_op": {"median": 5}})
    }

    #[test]
    fn wanted_names_choose_results_and_none_choose_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/h.sqlite");
        let mut store = Store::to_save(&path).unwrap();
        let results = [
            result("connect", "scc"),
            result("churn", "scc"),
            result("churn", "ours"),
        ];
        assert_eq!(store.save(&run(&results)).unwrap(), 1);
        let count = |workloads: &[&str], tables: &[&str]| {
            let own = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
            let wanted = Wanted {
                workloads: own(workloads),
                tables: own(tables),
            };
            store.results(&wanted).unwrap().len()
        };
        assert_eq!(count(&[], &[]), 3);
        assert_eq!(count(&["churn"], &[]), 2);
        assert_eq!(count(&["churn", "connect"], &["scc"]), 2);
        assert_eq!(count(&["churn"], &["ours", "none"]), 1);
        assert_eq!(store.tables().unwrap(), ["ours", "scc"]);
    }

    #[test]
    fn a_run_with_a_result_that_is_none_is_not_saved_in_part() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::to_save(&folder.path().join("h.sqlite")).unwrap();
        let results = [result("connect", "scc"), json!({"table": "scc"})];
        assert!(store.save(&run(&results)).is_err());
        assert!(store.results(&Wanted::default()).unwrap().is_empty());
    }

    #[test]
    fn a_folder_is_refused_by_that_word() {
        let folder = tempfile::tempdir().unwrap();
        for said in [Store::to_save(folder.path()), Store::to_read(folder.path())] {
            let said = said.unwrap_err().to_string();
            assert!(said.contains("this is a folder"), "{said}");
        }
    }
}
