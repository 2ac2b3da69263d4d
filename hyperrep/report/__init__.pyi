from .html import render_report as render_report
from .tables import accuracy_table as accuracy_table
from .tables import describe_probes as describe_probes
from .tables import judgment_table as judgment_table
from .tables import novelty_table as novelty_table
from .tables import probe_table as probe_table
from .verdicts import write_verdicts as write_verdicts
