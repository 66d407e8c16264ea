from .activations.collect import collect
from .activations.store import Store
from .activations.stream import Stream
from .bridges.bridge import Bridge, bridge
from .bridges.crossing import Carried, carry
from .bridges.settings import BridgeSettings, CarrySettings
from .dictionary.activation import Sparsity
from .dictionary.codes import Codes
from .dictionary.design import Design
from .dictionary.dictionary import Dictionary
from .dictionary.refit import refit
from .dictionary.refit_settings import RefitSettings
from .errors import UserError
from .estimate.estimate import Estimate, estimate
from .features.describe import features
from .features.settings import FeatureSettings
from .features.table import FeatureTable
from .formats.exporting import export_dictionary
from .formats.importing import import_dictionary
from .formats.settings import ExportSettings, ImportSettings
from .interventions.activate import Activated, activate
from .interventions.attribute import Attribution, attribute
from .interventions.causal import causal
from .interventions.graft.graft import Graft
from .interventions.graft.make import Grafting, graft
from .interventions.graft.settings import GraftSettings
from .interventions.organisms.organism import Organism, organism
from .interventions.organisms.settings import OrganismSettings
from .interventions.responses.responses import Responses, responses
from .interventions.settings import (
    ActivateSettings,
    AttributeSettings,
    CausalSettings,
    ResponseSettings,
    SpliceSettings,
    SteerSettings,
)
from .interventions.splice import splice
from .interventions.steer.effect import Effect
from .interventions.steer.steer import steer
from .lm.corpus import open_corpus
from .lm.load import LanguageModel, load_model
from .matching.layers import Layers, layers
from .matching.match import Matching, match
from .matching.settings import FamilySettings, LayerSettings, MatchSettings
from .matching.universality import Universality, universality
from .naming.naming import Naming, label
from .naming.settings import NameSettings
from .parallel import grid
from .report.page import report
from .stitching.settings import StitchSettings
from .stitching.stitch import Stitching, stitch
from .studies.compare import DesignStudy, study_designs
from .studies.demo import demo
from .sweep.file import Study, read_study
from .training.settings import Objective, TrainSettings
from .training.train import train, train_many

__all__ = [
    "ActivateSettings",
    "Activated",
    "AttributeSettings",
    "Attribution",
    "Bridge",
    "BridgeSettings",
    "Carried",
    "CarrySettings",
    "CausalSettings",
    "Codes",
    "Design",
    "DesignStudy",
    "Dictionary",
    "Effect",
    "Estimate",
    "ExportSettings",
    "FamilySettings",
    "FeatureSettings",
    "FeatureTable",
    "Graft",
    "GraftSettings",
    "Grafting",
    "ImportSettings",
    "LanguageModel",
    "LayerSettings",
    "Layers",
    "MatchSettings",
    "Matching",
    "NameSettings",
    "Naming",
    "Objective",
    "Organism",
    "OrganismSettings",
    "RefitSettings",
    "ResponseSettings",
    "Responses",
    "Sparsity",
    "SpliceSettings",
    "SteerSettings",
    "StitchSettings",
    "Stitching",
    "Store",
    "Stream",
    "Study",
    "TrainSettings",
    "Universality",
    "UserError",
    "activate",
    "attribute",
    "bridge",
    "carry",
    "causal",
    "collect",
    "demo",
    "estimate",
    "export_dictionary",
    "features",
    "graft",
    "grid",
    "import_dictionary",
    "label",
    "layers",
    "load_model",
    "match",
    "open_corpus",
    "organism",
    "read_study",
    "refit",
    "report",
    "responses",
    "splice",
    "steer",
    "stitch",
    "study_designs",
    "train",
    "train_many",
    "universality",
]
