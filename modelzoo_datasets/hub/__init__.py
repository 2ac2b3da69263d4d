"""The only package that talks to the Hub: a folder is pushed to a repo, a repo is resolved to a local folder.

kinds.py         which folders of modelzoo-hyperrep there are
publication.py   what a folder publishes, read without the network
pushing.py       the repo made to hold it, in as few commits as possible, and tagged
pull_requests.py which pull request an earlier push opened
fetching.py      the files of a repo that are wanted, in the client's own cache
remote.py        files that are read where they are, in ranges
failures.py      what can go wrong there in one line, and what is tried again
"""

from .fetching import fetch as fetch
from .fetching import repo_id_of as repo_id_of
from .fetching import resolved as resolved
from .publication import Publication as Publication
from .publication import beyond_the_hub as beyond_the_hub
from .publication import read_publication as read_publication
from .publication import refuse_config_name as refuse_config_name
from .pushing import Pushed as Pushed
from .pushing import check_destination as check_destination
from .pushing import push as push
from .remote import RangeReader as RangeReader
from .remote import RemoteFile as RemoteFile
from .remote import cached_file as cached_file
from .remote import remote_files as remote_files
