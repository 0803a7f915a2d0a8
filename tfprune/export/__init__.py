"""Export: a pruned model as the files that its users load, compared and counted."""

from tfprune.export.base import Artifact, ArtifactCost, Format, TFLiteOptions
from tfprune.export.exporter import FORMATS, ExportReport, export_model
from tfprune.export.latency import (LatencyComparison, LatencyStats, compare_latency,
                                    tflite_latency_ms)
from tfprune.export.operator_cost import graph_cost, tflite_cost
from tfprune.export.parity import FormPair, Parity, ParityError

__all__ = ['Artifact', 'ArtifactCost', 'ExportReport', 'FORMATS', 'FormPair', 'Format',
           'LatencyComparison', 'LatencyStats', 'Parity', 'ParityError', 'TFLiteOptions',
           'compare_latency', 'export_model', 'graph_cost', 'tflite_cost', 'tflite_latency_ms']
