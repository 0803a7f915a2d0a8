"""What a run says about itself: the table on the screen, report.html, and several runs together."""
from tfprune.report.aggregate import aggregate
from tfprune.report.comparison import comparison_html, comparison_of_page, format_comparison
from tfprune.report.html import write_html
from tfprune.report.model_card import model_card
from tfprune.report.pages_of_tables import remade
from tfprune.report.rows import read_rows_file, run_row, run_rows, write_rows_file
from tfprune.report.summary import format_summary, summary_html
from tfprune.report.table import format_table

__all__ = ['aggregate', 'comparison_html', 'comparison_of_page', 'format_comparison',
           'format_summary', 'format_table', 'model_card', 'read_rows_file', 'remade', 'run_row',
           'run_rows', 'summary_html', 'write_html', 'write_rows_file']
