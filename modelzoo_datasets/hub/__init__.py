"""The only package that talks to the Hub: a folder is pushed to a repo, a repo is resolved to a local folder.

kinds.py         which folders of modelzoo-hyperrep there are
publication.py   what a folder publishes, read without the network
pushing.py       the repo made to hold it, in as few commits as possible, and tagged
fetching.py      the files of a repo that are wanted, in the client's own cache
failures.py      what can go wrong there in one line, and what is tried again
"""

from .fetching import fetch as fetch
from .fetching import repo_id_of as repo_id_of
from .fetching import resolved as resolved
from .publication import Publication as Publication
from .publication import read_publication as read_publication
from .pushing import Pushed as Pushed
from .pushing import check_destination as check_destination
from .pushing import push as push
