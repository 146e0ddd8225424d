//! Arguments of `bitmap`.

use crate::args::Parsed;
use crate::args::common::{self, ImageArgs, Input};
use crate::failure::Failure;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use std::ffi::OsString;

const EXAMPLES: &str = "\
Examples:
  diskimg bitmap --add -g 64k disk.qcow2 backup-1
  diskimg bitmap --disable disk.qcow2 backup-1
  diskimg bitmap --merge backup-1 -b overlay.qcow2 -F qcow2 base.qcow2 backup-1
  diskimg bitmap --remove disk.qcow2 backup-1

The actions are carried out in their order, and stored at once: if the command is interrupted, all
bitmaps are as before or as afterwards. If one fails, those before it are stored. An inconsistent
bitmap (in-use) can only be removed. No other process may use FILE; -U applies to SRC only.";

/// Change the dirty bitmaps of a qcow2 image.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image and the name of the bitmap.
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    operands: Vec<OsString>,
    #[command(flatten)]
    actions: Actions,
    /// Guest bytes per bit of --add (default: the cluster size, 4k to 64k)
    #[arg(short, long, value_name = "SIZE")]
    granularity: Option<String>,
    /// Image with the bitmaps to merge (default: FILE)
    #[arg(short = 'b', long, value_name = "SRC", value_hint = clap::ValueHint::FilePath)]
    source_file: Option<OsString>,
    /// Format of SRC (default: probed)
    #[arg(short = 'F', long, value_name = "FMT")]
    source_format: Option<String>,
    /// Format of FILE (default: probed)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    #[command(flatten)]
    image_args: ImageArgs,
}

/// What is done to a bitmap of an image.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) input: Input,
    /// The name of the bitmap.
    pub(crate) bitmap: String,
    /// What is done, in this order; not empty.
    pub(crate) actions: Vec<Action>,
    /// `-g`.
    pub(crate) granularity: Option<u64>,
    /// `-b`.
    pub(crate) source: Option<Input>,
}

/// One of the actions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// `--add`.
    Add,
    /// `--remove`.
    Remove,
    /// `--clear`.
    Clear,
    /// `--enable`.
    Enable,
    /// `--disable`.
    Disable,
    /// `--merge` with the name of the other bitmap.
    Merge(String),
}

/// The actions, in the order in which they were given.
#[derive(Debug, Default)]
struct Actions(Vec<Action>);

/// The options without a value: name, help, action.
const FLAGS: [(&str, &str, Action); 5] = [
    ("add", "Add BITMAP, which records writes from now on", Action::Add),
    ("remove", "Remove BITMAP", Action::Remove),
    ("clear", "Make everything clean in BITMAP", Action::Clear),
    ("enable", "Record writes in BITMAP from now on", Action::Enable),
    ("disable", "Stop recording writes in BITMAP", Action::Disable),
];

impl clap::Args for Actions {
    fn augment_args(command: Command) -> Command {
        let flag = |(name, help, _): &(&'static str, &'static str, Action)| {
            let arg = Arg::new(*name).long(*name).help(*help).action(ArgAction::Append);
            arg.num_args(0).default_missing_value("true").value_parser(clap::value_parser!(bool))
        };
        let merge = Arg::new("merge").long("merge").value_name("NAME");
        let merge = merge.help("Make dirty in BITMAP what is dirty in bitmap NAME of SRC");
        command.args(FLAGS.iter().map(flag)).arg(merge.action(ArgAction::Append))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Actions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut found = Vec::new();
        for (name, _, action) in &FLAGS {
            found.extend(indices(matches, name).map(|index| (index, action.clone())));
        }
        let sources = matches.get_many::<String>("merge").into_iter().flatten();
        let merges = sources.map(|source| Action::Merge(source.clone()));
        found.extend(indices(matches, "merge").zip(merges));
        found.sort_by_key(|(index, _)| *index);
        Ok(Self(found.into_iter().map(|(_, action)| action).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Returns the positions of an option on the command line.
fn indices<'a>(matches: &'a ArgMatches, name: &str) -> impl Iterator<Item = usize> + 'a {
    matches.indices_of(name).into_iter().flatten()
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn parse(self) -> Result<Parsed<Job>, Failure> {
        let actions = self.actions.0;
        let error = |message: &str| Err(Failure::error(message));
        if actions.is_empty() {
            return error(
                "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge",
            );
        }
        let granularity = self.granularity.as_deref();
        let granularity = granularity.map(|g| common::size("granularity", g)).transpose()?;
        let granularity = granularity.filter(|&size| size > 0);
        if granularity.is_some() && !actions.contains(&Action::Add) {
            return error("granularity only supported with --add");
        }
        if self.source_format.is_some() && self.source_file.is_none() {
            return error("-F only supported with -b");
        }
        let merges = actions.iter().any(|action| matches!(action, Action::Merge(_)));
        if self.source_file.is_some() && !merges {
            return error("Merge bitmap source file only supported with --merge");
        }
        let [file, bitmap] = self.operands.as_slice() else {
            return error("Expecting filename and bitmap name");
        };
        let Some(bitmap) = bitmap.to_str() else {
            return error("the name of the bitmap is not valid UTF-8");
        };
        let policy = self.image_args.policy()?;
        let input = Input::new(file, self.format.as_deref(), &policy)?.into_file()?;
        // The source of a merge is always a file.
        let policy = policy.describing_images(false);
        let source = self.source_file.map(|name| {
            let mut source = Input::new(&name, self.source_format.as_deref(), &policy)?;
            source.options = source.options.metadata_only(true).with_chain(false);
            Ok::<_, Failure>(source)
        });
        let (bitmap, source) = (bitmap.to_owned(), source.transpose()?);
        Ok(Parsed::Job(Job { input, bitmap, actions, granularity, source }))
    }
}
