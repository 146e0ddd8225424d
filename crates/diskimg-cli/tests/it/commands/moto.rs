//! Images in another S3 store, and keys that Amazon's services issue.

use crate::support::{Lab, Ran, diskimg};
use diskimg_testkit::moto::Moto;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A store with the bucket `bucket`, and a lab with `a.raw`, which has several parts.
struct Stored {
    lab: Lab,
    store: Moto,
}

impl Stored {
    fn new() -> Self {
        let (lab, store) = (Lab::new(), Moto::start());
        store.boto3(&["create-bucket", "bucket"]);
        let bytes: Vec<u8> = (0..20_480_000u32).map(|i| (i / 1000 + i * 7) as u8).collect();
        fs::write(lab.path("a.raw"), [&bytes[..], &[0; 10_240_000]].concat()).expect("writes");
        Self { lab, store }
    }

    /// Returns a command with the store in variables, and without keys.
    fn bare(&self, line: &str) -> Command {
        let mut command = self.lab.command(diskimg());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
            command.env_remove(name);
        }
        command.args(line.split_whitespace()).env("HOME", self.lab.path("home"));
        command.env("AWS_ENDPOINT_URL", self.store.endpoint());
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        command
    }

    fn run_with(&self, line: &str, variables: &[(&str, &str)]) -> Ran {
        let mut command = self.bare(line);
        Ran::new(command.envs(variables.iter().copied()).output().expect("runs"))
    }

    fn run(&self, line: &str) -> Ran {
        self.run_with(line, &[("AWS_ACCESS_KEY_ID", "any"), ("AWS_SECRET_ACCESS_KEY", "any")])
    }
}

#[test]
#[ignore = "needs moto and boto3"]
fn images_and_keys_are_those_of_the_services() {
    let stored = Stored::new();
    images(&stored);
    uploads_are_continued(&stored);
    instance(&stored);
    roles(&stored);
}

fn images(stored: &Stored) {
    for (name, options) in
        [("a.qcow2", "-O qcow2"), ("c.qcow2", "-c -O qcow2 --verify"), ("a.raw", "-O raw")]
    {
        let url = format!("s3://bucket/images/{name}");
        stored.run(&format!("convert --sandbox=require {options} a.raw {url}")).ok();
        let got = stored.lab.path("got").display().to_string();
        stored.store.boto3(&["get", "bucket", &format!("images/{name}"), &got]);
        let format = options.split(' ').skip_while(|word| *word != "-O").nth(1).expect("has one");
        stored.lab.qemu(&format!("compare -f raw -F {format} a.raw {got}")).ok();
        let local = format!("compare --sandbox=require -f raw a.raw {url}");
        assert!(stored.run(&local).ok().contains("identical"), "{name}");
    }
    assert_eq!(stored.store.boto3(&["uploads", "bucket"]), "");
}

/// Number of parts of `big.raw`.
const PARTS: usize = 9;

/// An upload that the command has begun and not completed.
struct Begun {
    /// Number of parts that the file `state` records.
    recorded: usize,
    /// The identifier.
    upload: String,
}

/// Starts an upload, and ends the command with a signal when it has recorded some parts.
fn begin(stored: &Stored, signal: rustix::process::Signal) -> Begun {
    let line = "convert --sandbox=require --resume state --rate 20M -O raw big.raw s3://bucket/big";
    let mut command = stored.bare(line);
    command.envs([("AWS_ACCESS_KEY_ID", "any"), ("AWS_SECRET_ACCESS_KEY", "any")]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().expect("starts");
    let recorded = || {
        let text = fs::read_to_string(stored.lab.path("state")).unwrap_or_default();
        text.matches("etag").count()
    };
    let started = Instant::now();
    while recorded() < 3 {
        assert!(started.elapsed() < Duration::from_secs(60), "it records nothing");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).expect("is one");
    rustix::process::kill_process(pid, signal).expect("signals");
    let ended = child.wait_with_output().expect("ends");
    assert!(!ended.status.success(), "{ended:?}");
    let uploads = stored.store.boto3(&["uploads", "bucket"]);
    let upload = uploads.trim().strip_prefix("big ").expect("one upload remains").to_owned();
    assert!(!stored.store.boto3(&["list", "bucket"]).contains("big "));
    let recorded = recorded();
    assert!(recorded < PARTS, "it was completed");
    Begun { recorded, upload }
}

/// Continues an upload. Returns how many parts were sent.
fn proceed(stored: &Stored) -> usize {
    let before = stored.store.requests().len();
    let line = "convert --sandbox=require --resume state -O raw big.raw s3://bucket/big";
    stored.run(line).ok();
    assert!(!stored.lab.path("state").exists());
    let got = stored.lab.path("got").display().to_string();
    stored.store.boto3(&["get", "bucket", "big", &got]);
    assert!(fs::read(&got).expect("reads") == stored.lab.read("big.raw"));
    assert_eq!(stored.store.boto3(&["uploads", "bucket"]), "");
    let requests = stored.store.requests().split_off(before);
    requests.iter().filter(|request| request.contains("partNumber=")).count()
}

fn uploads_are_continued(stored: &Stored) {
    use rustix::process::Signal;
    let bytes: Vec<u8> = (0..70_000_640_u32).map(|i| (i / 1000 + i * 7) as u8).collect();
    fs::write(stored.lab.path("big.raw"), &bytes).expect("writes");
    let begun = begin(stored, Signal::KILL);
    let other = "convert --resume state -O raw big.raw s3://bucket/other";
    let error = stored.run(other).fails(1);
    assert!(error.contains("another destination, s3://bucket/big"), "{error}");
    assert_eq!(proceed(stored), PARTS - begun.recorded);
    fs::write(stored.lab.path("state"), "{}").expect("writes");
    let error = stored.run(other).fails(1);
    assert!(error.contains("does not record an upload"), "{error}");
    fs::remove_file(stored.lab.path("state")).expect("removes");
    stored.store.boto3(&["delete", "bucket", "big"]);

    // A source that has changed in one part that was sent. Parts are sent in their order, but for the
    // first one, which is sent last.
    let begun = begin(stored, Signal::INT);
    let mut changed = bytes.clone();
    changed[(8 << 20) + 12345] ^= 1;
    fs::write(stored.lab.path("big.raw"), &changed).expect("writes");
    assert_eq!(proceed(stored), PARTS - begun.recorded + 1);
    stored.store.boto3(&["delete", "bucket", "big"]);

    // An upload that the store has not any more.
    let begun = begin(stored, Signal::TERM);
    stored.store.boto3(&["abort", "bucket", "big", &begun.upload]);
    assert_eq!(proceed(stored), PARTS);
    stored.store.boto3(&["delete", "bucket", "big"]);

    // An image that is one request now: the upload is aborted.
    begin(stored, Signal::KILL);
    fs::write(stored.lab.path("big.raw"), &bytes[..1 << 20]).expect("writes");
    assert_eq!(proceed(stored), 0);
    // A file that cannot be written.
    fs::write(stored.lab.path("big.raw"), &bytes[..20 << 20]).expect("writes");
    let line = "convert --sandbox=off --resume no/state -O raw big.raw s3://bucket/big";
    let error = stored.run(line).fails(1);
    assert!(error.contains("cannot record the upload in 'no/state'"), "{error}");
    assert_eq!(stored.store.boto3(&["uploads", "bucket"]), "");
    for line in [
        "convert --resume state -O raw big.raw local.raw",
        "convert --resume state -n -O raw big.raw s3://bucket/big",
        "convert --resume state -O raw big.raw -",
        "convert --resume state -O raw big.raw nbd://127.0.0.1:1/x",
    ] {
        let error = stored.run(line).fails(1);
        assert!(error.contains("--resume is for new images in stores"), "{error}");
    }
}

/// The metadata service, version 2.
fn instance(stored: &Stored) {
    let mut command = stored.bare("info --sandbox=require s3://bucket/images/a.qcow2");
    command.env_remove("AWS_EC2_METADATA_DISABLED");
    command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", stored.store.endpoint());
    let before = stored.store.requests().len();
    Ran::new(command.output().expect("runs")).ok();
    let requests = stored.store.requests().split_off(before);
    let role = "/latest/meta-data/iam/security-credentials/";
    for expected in [
        "PUT /latest/api/token 200".to_owned(),
        format!("GET {role} 200"),
        format!("GET {role}default-role 200"),
    ] {
        assert!(requests.contains(&expected), "{requests:?}");
    }
}

/// From here on, the store verifies signatures and session tokens.
fn roles(stored: &Stored) {
    let [access, secret, role] = stored.store.make_role();
    stored.store.require_signatures(0);
    let info = "info --sandbox=require s3://bucket/images/a.qcow2";
    let keys = [("AWS_ACCESS_KEY_ID", &*access), ("AWS_SECRET_ACCESS_KEY", &*secret)];
    // The user may not read.
    stored.run_with(info, &keys).fails(1);
    let config = format!(
        "[profile worker]\nrole_arn = {role}\nsource_profile = user\n\
         [profile user]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n\
         [profile outer]\nrole_arn = {role}\ncredential_source = Environment\n"
    );
    fs::write(stored.lab.path("config"), config).expect("writes");
    let config = stored.lab.path("config").display().to_string();
    let config = ("AWS_CONFIG_FILE", &*config);
    stored.run_with(&format!("{info} --profile worker"), &[config]).ok();
    stored.run_with(info, &[config, ("AWS_PROFILE", "worker")]).ok();
    stored.run_with(&format!("{info} --profile outer"), &[config, keys[0], keys[1]]).ok();
    let convert = "convert --sandbox=require -O qcow2 a.raw s3://bucket/by-role.qcow2";
    stored.run_with(&format!("{convert} --profile worker"), &[config]).ok();
    let wrong = [config, keys[0], ("AWS_SECRET_ACCESS_KEY", "wrong-secret")];
    let error = stored.run_with(&format!("{info} --profile outer"), &wrong).fails(1);
    assert!(!error.contains("wrong-secret"), "{error}");

    // The token of an identity provider. The server would not accept the request for keys, which is
    // not signed.
    fs::write(stored.lab.path("token"), "the-token\n").expect("writes");
    let file = stored.lab.path("token").display().to_string();
    let identity = [("AWS_WEB_IDENTITY_TOKEN_FILE", &*file), ("AWS_ROLE_ARN", &*role)];
    stored.store.require_signatures(1);
    stored.run_with(info, &identity).ok();
    // That file comes before the profile, and after keys.
    stored.store.require_signatures(1);
    stored.run_with(info, &[config, ("AWS_PROFILE", "user"), identity[0], identity[1]]).ok();
    stored.run_with(info, &[keys[0], keys[1], identity[0], identity[1]]).fails(1);
}
