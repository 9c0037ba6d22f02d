//! Server and client in one process, over a real socket.

use std::os::unix::fs::MetadataExt;

use tempfile::TempDir;

use crate::service::control::*;
use crate::telemetry::status::Status;

const CONFIG: &str = "/etc/moontide/config.toml";
const DEADLINE: Duration = Duration::from_secs(20);

/// Answers a status with `version` and leaves a reload without an answer.
fn daemon(directory: &Path, version: &str) -> tokio::task::JoinHandle<Result<()>> {
    let server = Server::bind(directory, CONFIG.as_ref()).unwrap();
    let (sender, mut requests) = mpsc::channel::<Ask>(1);
    let version = version.to_owned();
    tokio::spawn(async move {
        while let Some(Ask {
            request, answer, ..
        }) = requests.recv().await
        {
            if let Request::Status = request {
                let status = Status {
                    version: version.clone(),
                    ..Status::default()
                };
                answer.send(Response::Status(Box::new(status))).unwrap();
            }
        }
    });
    tokio::spawn(server.serve(sender))
}

async fn ask_beside(directory: &Path, request: Request, deadline: Duration) -> Result<Response> {
    let directory = directory.to_owned();
    let answer = tokio::task::spawn_blocking(move || ask(&directory, &request, deadline));
    let Answer { daemon, response } = answer.await.unwrap()?;
    let expected = Identity {
        pid: std::process::id(),
        config: CONFIG.to_owned(),
    };
    assert_eq!(daemon, expected);
    Ok(response)
}

async fn say(directory: &Path, line: Vec<u8>) -> String {
    let path = socket_path(directory).unwrap();
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(&line).unwrap();
        read_line(&mut stream, Instant::now() + DEADLINE).unwrap()
    });
    String::from_utf8(answer.await.unwrap()).unwrap()
}

#[track_caller]
fn error<T: std::fmt::Debug>(result: Result<T>) -> String {
    format!("{:#}", result.unwrap_err())
}

#[tokio::test]
async fn a_request_gets_its_answer() {
    let temp = TempDir::new().unwrap();
    daemon(temp.path(), "1.2.3");
    for _ in 0..3 {
        match ask_beside(temp.path(), Request::Status, DEADLINE)
            .await
            .unwrap()
        {
            Response::Status(status) => assert_eq!(status.version, "1.2.3"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_request_that_the_daemon_drops_is_answered_nevertheless() {
    let temp = TempDir::new().unwrap();
    daemon(temp.path(), "");
    match ask_beside(temp.path(), Request::Reload, DEADLINE)
        .await
        .unwrap()
    {
        Response::Error(error) => assert_eq!(error, "moontide is stopping"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_bad_request_is_told_so() {
    let temp = TempDir::new().unwrap();
    daemon(temp.path(), "");
    let answer = say(temp.path(), b"{\"command\":\"dance\"}\n".to_vec()).await;
    assert!(
        answer.contains("{\"error\":\"bad request: unknown variant `dance`"),
        "{answer}"
    );
    let answer = say(temp.path(), vec![b' '; REQUEST_BYTES_MAX as usize]).await;
    assert!(answer.contains("more than 65536 bytes"), "{answer}");
}

#[tokio::test]
async fn silent_connections_do_not_keep_others_waiting() {
    let temp = TempDir::new().unwrap();
    daemon(temp.path(), "");
    let path = socket_path(temp.path()).unwrap();
    let silent = tokio::task::spawn_blocking(move || -> Vec<_> {
        (0..200)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect()
    });
    let _silent = silent.await.unwrap();
    let started = Instant::now();
    ask_beside(temp.path(), Request::Status, DEADLINE)
        .await
        .unwrap();
    assert!(started.elapsed() < PEER_DEADLINE, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_socket_that_was_deleted_is_made_anew() {
    let temp = TempDir::new().unwrap();
    let directory = temp.path().join("run");
    daemon(&directory, "1.2.3");
    ask_beside(&directory, Request::Status, DEADLINE)
        .await
        .unwrap();
    for is_whole_directory in [false, true] {
        if is_whole_directory {
            std::fs::remove_dir_all(&directory).unwrap();
        } else {
            std::fs::remove_file(directory.join(SOCKET)).unwrap();
        }
        let until = Instant::now() + DEADLINE;
        while ask_beside(&directory, Request::Status, DEADLINE)
            .await
            .is_err()
        {
            assert!(Instant::now() < until, "the socket is not made anew");
            tokio::task::yield_now().await;
        }
        let mode = std::fs::metadata(directory.join(SOCKET)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[tokio::test]
async fn the_socket_of_another_process_stays() {
    let temp = TempDir::new().unwrap();
    let mut server = Server::bind(temp.path(), CONFIG.as_ref()).unwrap();
    let path = socket_path(temp.path()).unwrap();
    std::fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    assert!(!server.restore());
    drop(server);
    assert!(path.exists());
}

#[tokio::test]
async fn a_client_does_not_wait_beyond_its_deadline() {
    let temp = TempDir::new().unwrap();
    let _server = Server::bind(temp.path(), CONFIG.as_ref()).unwrap();
    let answer = ask_beside(temp.path(), Request::Status, Duration::from_millis(20)).await;
    assert_eq!(
        error(answer),
        "the daemon has not answered within 0 s; the request may still be under way"
    );
}

#[tokio::test]
async fn without_a_daemon_the_client_says_what_to_do() {
    let temp = TempDir::new().unwrap();
    let expected = format!(
        "no daemon runs with runtime directory `{}`; start it with `moontide run`",
        temp.path().display()
    );
    let answer = ask_beside(temp.path(), Request::Status, DEADLINE).await;
    assert_eq!(error(answer), expected, "no socket");

    drop(UnixListener::bind(temp.path().join(SOCKET)).unwrap());
    let answer = ask_beside(temp.path(), Request::Status, DEADLINE).await;
    assert_eq!(
        error(answer),
        expected,
        "one that a killed daemon left behind"
    );
}

#[tokio::test]
async fn a_socket_that_was_left_behind_is_replaced() {
    let temp = TempDir::new().unwrap();
    drop(UnixListener::bind(temp.path().join(SOCKET)).unwrap());
    std::fs::write(temp.path().join(LOCK), "12345\n").unwrap();
    daemon(temp.path(), "new");
    ask_beside(temp.path(), Request::Status, DEADLINE)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_runtime_directory_has_one_daemon() {
    let temp = TempDir::new().unwrap();
    let first = Server::bind(temp.path(), CONFIG.as_ref()).unwrap();
    let said = format!(
        "another daemon runs with runtime directory `{}`",
        temp.path().display()
    );
    let expected = format!("{said}, pid {}", std::process::id());
    assert_eq!(error(Server::bind(temp.path(), CONFIG.as_ref())), expected);

    std::fs::remove_file(temp.path().join(LOCK)).unwrap();
    assert_eq!(
        error(Server::bind(temp.path(), CONFIG.as_ref())),
        said,
        "even without the file of its lock"
    );
    drop(first);
    assert!(!temp.path().join(SOCKET).exists());
    Server::bind(temp.path(), CONFIG.as_ref()).unwrap();
}

#[tokio::test]
async fn it_ends_with_its_receiver_and_removes_the_socket() {
    let temp = TempDir::new().unwrap();
    let server = Server::bind(temp.path(), CONFIG.as_ref()).unwrap();
    let (sender, requests) = mpsc::channel(1);
    drop(requests);
    server.serve(sender).await.unwrap();
    assert!(!temp.path().join(SOCKET).exists());
}

#[test]
fn nobody_else_may_connect() {
    let temp = TempDir::new().unwrap();
    let directory = temp.path().join("a/b");
    let _server = Server::bind(&directory, CONFIG.as_ref()).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join(SOCKET)), 0o600);
    assert_eq!(mode(&directory.join(LOCK)), 0o600);
}

#[test]
fn a_path_too_long_for_a_socket_is_refused_with_what_to_do() {
    let directory = Path::new("/tmp").join("x".repeat(SOCKET_PATH_BYTES_MAX));
    let said = error(Server::bind(&directory, CONFIG.as_ref()));
    assert!(
        said.ends_with("; set `daemon.runtimeDirectory` to a shorter one"),
        "{said}"
    );
    assert!(!directory.exists());
}
