"""N. Hasegawa, I. Sato: "Exploring Weight Balancing on Long-Tailed Recognition Problem", ICLR 2024; the numbers are those of
the first preprint (arXiv:2305.16573v1, 30 May 2023).

Covered: Tables 2, 3, 4, 6, 7, 8, 9 and 10 and the batch-norm numbers of Sec. 4.3; the runs and Measures behind Figures 1 to 6.
Table 1 compares methods in words and is printed as published.

Cost of Table 4: five backbones of 320 epochs and one second stage of 10 for each seed; logit adjustment trains nothing. Every
"fixed BN" row trains one backbone for each of 20 constants.

Known gaps: the constant of "WD fixed BN", the tau and gamma of every adjusted row, the split of mini-ImageNet-LT and the number
of random layers of Table 3 are printed nowhere. "Sec. 7" is the preprint's appendix, "code" the released one, which belongs to
the later version.
"""

from typing import Any

from replicate.protocol import (
    BEST_ON_VALIDATION,
    Above,
    Across,
    AdditiveAdjustment,
    Block,
    Claim,
    Column,
    Cosine,
    Crop,
    CropFlip,
    CrossEntropy,
    DotRegression,
    EffectiveNumber,
    FeatureNorm,
    Feed,
    Figure,
    Free,
    Grid,
    LongTailed,
    MaxNorm,
    Method,
    Metric,
    MultiplicativeAdjustment,
    Objective,
    Panel,
    Paper,
    PhotographFolders,
    Quirk,
    RandomResizedCropFlip,
    Row,
    Sgd,
    Stage,
    Stratified,
    Table,
    Variant,
    over,
    rows,
)

# --- protocol: Sec. 7.5.3 ---------------------------------------------------------------------------------------------

EPOCHS, EPOCHS_MNIST, EPOCHS_SECOND = 320, 150, 10
RATE, MOMENTUM, BATCH = 0.01, 0.9, 64
DECAY_CIFAR, DECAY_MINI, DECAY_MNIST, DECAY_SECOND = 5e-3, 3e-3, 1e-2, 0.1
ZETA_C100, ZETA_C10, ZETA_MINI = 0.01, 0.02, 0.001  # Sec. 7.5.3 and 7.6.4; quirk zeta
TAUS = tuple(round(1 + 0.05 * step, 2) for step in range(21))  # 1.00, 1.05, ..., 2.00
GAMMAS = tuple(round(0.05 * step, 2) for step in range(21))  # 0.00, 0.05, ..., 1.00
CONSTANTS = tuple(round(0.01 * step, 2) for step in range(1, 21))  # Sec. 4.3: 0.01, ..., 0.20; quirk fixed-bn
SEEDS = 5  # quirk seeds

ADJUSTING = {"taus": TAUS, "gammas": GAMMAS, "projection": "epoch"}  # quirk max-norm
CIFAR: dict[str, Any] = {
    "epochs": EPOCHS, "second": EPOCHS_SECOND, "rate": RATE, "weight_decay": DECAY_CIFAR,
    "feed": Feed(BATCH, CropFlip(padding=4)), **ADJUSTING,
}  # fmt: skip
MINI: dict[str, Any] = {
    "epochs": EPOCHS, "second": EPOCHS_SECOND, "rate": RATE, "weight_decay": DECAY_MINI, "zeta": ZETA_MINI,
    "feed": Feed(BATCH, RandomResizedCropFlip()), **ADJUSTING,
}  # fmt: skip
MNIST: dict[str, Any] = {
    "epochs": EPOCHS_MNIST, "rate": RATE, "weight_decay": DECAY_MNIST, "feed": Feed(BATCH, CropFlip(padding=4)),
}  # fmt: skip

# --- a stand-in that needs no download: scikit-learn's digits, no part of the paper -----------------------------------

DIGITS: dict[str, Any] = {
    "epochs": 40, "second": 10, "rate": 0.1, "weight_decay": 5e-3, "zeta": 0.01, "feed": Feed(32, Crop(padding=1)), **ADJUSTING,
}  # fmt: skip

# --- data: Sec. 7.5.1 and code (quirks counts, normalisation) ---------------------------------------------------------

C100_STD, C10_STD, MEAN = (0.2023, 0.1994, 0.2010), (0.2470, 0.2435, 0.2616), (0.4914, 0.4822, 0.4465)
CIFAR_SUBSET: dict[str, Any] = {"validation": 20, "subset": "first", "rounding": "nearest"}
C10_DATA = LongTailed("cifar10", "exponential", 100, MEAN, C10_STD, largest=4980, **CIFAR_SUBSET)
C10_BALANCED = LongTailed("cifar10", "exponential", 1, MEAN, C10_STD, largest=4980, **CIFAR_SUBSET)
C100_DATA = LongTailed("cifar100", "exponential", 100, MEAN, C100_STD, largest=480, **CIFAR_SUBSET)
C100_BALANCED = LongTailed("cifar100", "exponential", 1, MEAN, C100_STD, largest=480, **CIFAR_SUBSET)
IMAGENET: dict[str, Any] = {
    "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "side": 224, "resize": 256,
    "largest": 500, "validation": 100, "test": 100,
}  # fmt: skip
MINI_DATA = PhotographFolders("mini_imagenet_lt", ratio=100, **IMAGENET)  # quirks mini-split, mini-84
MINI_BALANCED = PhotographFolders("mini_imagenet", ratio=1, **IMAGENET)
MNIST_DATA = Stratified("mnist", (0.1301,), (0.3069,), test=10_000, validation=10_000)
DIGITS_DATA = LongTailed("digits", "exponential", 45, (0.3053,), (0.3760,), largest=90, validation=20, test=60)
DIGITS_BALANCED = LongTailed("digits", "exponential", 1, (0.3053,), (0.3760,), largest=90, validation=20, test=60)

SHOTS_C10 = {"Many": (0, 4), "Medium": (4, 7), "Few": (7, 10)}  # more than 1000, 200 to 1000, fewer than 200 images
SHOTS_C100 = {"Many": (0, 34), "Medium": (34, 69), "Few": (69, 100)}  # more than 100, 20 to 100, fewer than 20
SHOTS_MINI = {"Many": (0, 35), "Medium": (35, 70), "Few": (70, 100)}
SHOTS_DIGITS = {"Many": (0, 4), "Medium": (4, 7), "Few": (7, 10)}
EACH_DIGIT = {str(digit): (digit, digit + 1) for digit in range(10)}  # MNIST's classes differ in size

ZETA_10, ZETA_100 = {**CIFAR, "zeta": ZETA_C10}, {**CIFAR, "zeta": ZETA_C100}
C10_LT = Column("cifar10-lt", 100, ("CIFAR10-LT",), C10_DATA, "resnet34_3x3", ZETA_10, SHOTS_C10)
C100_LT = Column("cifar100-lt", 100, ("CIFAR100-LT",), C100_DATA, "resnet34_3x3", ZETA_100, SHOTS_C100)
MINI_LT = Column("mini-imagenet-lt", 100, ("mini-ImageNet-LT",), MINI_DATA, "resnet34", MINI, SHOTS_MINI)
C100_RESNEXT = Column(
    "cifar100-lt", 100, ("CIFAR100-LT(ResNeXt50)",), C100_DATA, "resnext50_3x3", ZETA_100, SHOTS_C100, tag="resnext50"
)  # Sec. 7.6.4: the parameters of the ResNet
DIGITS_LT = Column("digits", 45, ("Digits-LT",), DIGITS_DATA, "resnet_digits", DIGITS, SHOTS_DIGITS, stand_in=True)
COLUMNS = (C10_LT, C100_LT, MINI_LT, C100_RESNEXT, DIGITS_LT)

TABLE_3_COLUMNS = (
    Column("cifar100", 1, ("ResNet34", "C100"), C100_BALANCED, "resnet34_3x3", ZETA_100, SHOTS_C100),
    Column("cifar100-lt", 100, ("ResNet34", "C100-LT"), C100_DATA, "resnet34_3x3", ZETA_100, SHOTS_C100),
    Column("cifar10", 1, ("ResNet34", "C10"), C10_BALANCED, "resnet34_3x3", ZETA_10, SHOTS_C10),
    Column("cifar10-lt", 100, ("ResNet34", "C10-LT"), C10_DATA, "resnet34_3x3", ZETA_10, SHOTS_C10),
    Column("mini-imagenet", 1, ("ResNet34", "mIm"), MINI_BALANCED, "resnet34", MINI, SHOTS_MINI),
    Column("mini-imagenet-lt", 100, ("ResNet34", "mIm-LT"), MINI_DATA, "resnet34", MINI, SHOTS_MINI),
    Column("mnist", 1, ("MLP3", "MNIST"), MNIST_DATA, "mlp3", MNIST, EACH_DIGIT, tag="mlp3"),
    Column("mnist", 1, ("MLP4", "MNIST"), MNIST_DATA, "mlp4", MNIST, EACH_DIGIT, tag="mlp4"),
    Column("mnist", 1, ("MLP5", "MNIST"), MNIST_DATA, "mlp5", MNIST, EACH_DIGIT, tag="mlp5"),
    Column("mnist", 1, ("ResBlock1", "MNIST"), MNIST_DATA, "resblock1", MNIST, EACH_DIGIT, tag="resblock1"),
    Column("mnist", 1, ("ResBlock2", "MNIST"), MNIST_DATA, "resblock2", MNIST, EACH_DIGIT, tag="resblock2"),
)
MLP_DIGITS = Column(
    "digits", 1, ("MLP3", "Digits"), DIGITS_BALANCED, "mlp3_digits", DIGITS, EACH_DIGIT, stand_in=True, tag="mlp3"
)
IN_TEXT_COLUMN = Column(
    "cifar100-lt", 100, ("top BN layer of ResNet34 on CIFAR100-LT",), C100_DATA, "resnet34_3x3", ZETA_100, SHOTS_C100
)

# --- methods: Sec. 3, 4, 5 and 7.3 ------------------------------------------------------------------------------------

SCHEDULE, DECAY = Cosine(Free("rate"), Free("epochs")), Free("weight_decay")
NO_DECAY = Sgd(SCHEDULE, MOMENTUM)
ON_ALL = Sgd(SCHEDULE, MOMENTUM, DECAY)
WITHOUT_BN = Sgd(SCHEDULE, MOMENTUM, DECAY, decayed="convolutions and linear layers")  # quirk without-bn
WITHOUT_SHIFT = Sgd(SCHEDULE, MOMENTUM, DECAY, decayed="all but batch-norm shifts")  # quirk without-shift
SECOND_DECAY = Sgd(Cosine(Free("rate"), Free("second")), MOMENTUM, DECAY_SECOND)
MAX_NORM = Sgd(Cosine(Free("rate"), Free("second")), MOMENTUM, DECAY_SECOND, projection=MaxNorm(0.1, Free("projection")))

CE = Objective(CrossEntropy())
BALANCED = Objective(CrossEntropy(), EffectiveNumber(beta=0.9999), mean="batch")  # quirks cb-beta, cb-form
CE_FR = Objective(CrossEntropy(), regulariser=FeatureNorm(Free("zeta")))
REST: dict[str, Any] = {"feed": Free("feed"), "hands_over": BEST_ON_VALIDATION}
SECOND: dict[str, Any] = {**REST, "trained": "head"}
ADD, MULT = AdditiveAdjustment(Free("taus")), MultiplicativeAdjustment(Free("gammas"))  # Eqs 10 and 9; quirk la-search

WD = Method(Stage(Free("epochs"), CE, ON_ALL, **REST))
WD_ETF = Method(WD.stage, head="etf")  # quirk etf-bias
WD_FR_ETF = Method(Stage(Free("epochs"), CE_FR, ON_ALL, **REST), head="etf")
NO_BN = Method(Stage(Free("epochs"), CE, WITHOUT_BN, **REST))
NO_BN_ETF = Method(NO_BN.stage, head="etf")
FIXED_BN = Method(NO_BN.stage, batch_norm_scale=Free("constant"))
FIXED_BN_ETF = Method(NO_BN.stage, head="etf", batch_norm_scale=Free("constant"))

METHODS = {
    "Naive": Method(Stage(Free("epochs"), CE, NO_DECAY, **REST)),
    "CB": Method(Stage(Free("epochs"), BALANCED, NO_DECAY, **REST)),
    "WD": WD,
    "WD&CB": Method(Stage(Free("epochs"), BALANCED, ON_ALL, **REST)),
    "WD/Add": WD.adjusted(ADD),
    "WD/Mult": WD.adjusted(MULT),
    "WB": WD.followed_by(Stage(Free("second"), BALANCED, MAX_NORM, **SECOND)),
    "WD w/o BN": NO_BN,
    "WD fixed BN": FIXED_BN,
    "WD&ETF": WD_ETF,
    "WD&ETF/Add": WD_ETF.adjusted(ADD),
    "WD&ETF/Mult": WD_ETF.adjusted(MULT),
    "WD&FR&ETF": WD_FR_ETF,
    "WD&FR&ETF/Add": WD_FR_ETF.adjusted(ADD),
    "WD&FR&ETF/Mult": WD_FR_ETF.adjusted(MULT),
    "WD&ETF&DR": Method(Stage(Free("epochs"), Objective(DotRegression()), ON_ALL, **REST), head="etf"),
    "WD w/o BN&ETF": NO_BN_ETF,
    "WD w/o BN&ETF/Add": NO_BN_ETF.adjusted(ADD),
    "WD w/o BN&ETF/Mult": NO_BN_ETF.adjusted(MULT),
    "WD fixed BN&ETF": FIXED_BN_ETF,
    "WD fixed BN&ETF/Add": FIXED_BN_ETF.adjusted(ADD),
    "WD fixed BN&ETF/Mult": FIXED_BN_ETF.adjusted(MULT),
}
NORM = WD.followed_by(Stage(Free("second"), BALANCED, SECOND_DECAY, unit_rows=True, **SECOND))  # Sec. 7.6.3
FIGURE_6 = {"WB": METHODS["WB"], "WD+WD&Norm&CB": NORM}
FIGURE_2 = {
    "Naive": METHODS["Naive"],
    "WD w/o shift": Method(Stage(Free("epochs"), CE, WITHOUT_SHIFT, **REST)),
    "WD": WD,
}

# --- grids ------------------------------------------------------------------------------------------------------------

CONSTANT = {**dict.fromkeys((column.name for column in COLUMNS[:4]), CONSTANTS), DIGITS_LT.name: (0.05, 0.10, 0.20)}
GRIDS = {
    "table": Grid("Tables 2, 4 and 6 to 10", METHODS, COLUMNS, {"constant": CONSTANT}),
    "table3": Grid(
        "Table 3 and Sec. 4.3",
        {label: METHODS[label] for label in ("Naive", "WD w/o BN", "WD")},
        (*TABLE_3_COLUMNS, MLP_DIGITS, IN_TEXT_COLUMN),
    ),
    "figure2": Grid("Fig. 2", FIGURE_2, (*TABLE_3_COLUMNS[6:9], MLP_DIGITS)),
    "figure6": Grid("Fig. 6", FIGURE_6, (C10_LT, C100_LT, MINI_LT, DIGITS_LT)),
}

# --- tables -----------------------------------------------------------------------------------------------------------

TRAIN, TEST = ("separation", "fdr", "train"), ("separation", "fdr", "test")
BEFORE, AFTER = ("separation", "random_layer", "before"), ("separation", "random_layer", "after")
FDR_ALONE = (
    Metric(("FDR", "Train"), "FDR", measure=TRAIN, spread=False),
    Metric(("FDR", "Test"), "FDR", measure=TEST, spread=False),
)
FDR_SPREAD = (Metric(("FDR", "Train"), "FDR", measure=TRAIN), Metric(("FDR", "Test"), "FDR", measure=TEST))
ACCURACY = (
    Metric(("Accuracy", "Many"), "accuracy_pct", "Many"),
    Metric(("Accuracy", "Medium"), "accuracy_pct", "Medium"),
    Metric(("Accuracy", "Few"), "accuracy_pct", "Few"),
    Metric(("Accuracy", "Average"), "accuracy_pct"),
)

BASELINES = (
    (Row("Naive/N/A", "Naive"),),
    (Row("CB/N/A", "CB"),),
    (Row("WD/N/A", "WD"), *rows("WD/Add", "WD/Mult")),
    (Row("WB/N/A", "WB"),),
)
OURS = (
    (Row("WD&ETF/N/A", "WD&ETF", baseline=False), *rows("WD&ETF/Add", "WD&ETF/Mult", baseline=False)),
    (Row("WD&FR&ETF/N/A", "WD&FR&ETF", baseline=False), *rows("WD&FR&ETF/Add", "WD&FR&ETF/Mult", baseline=False)),
)
RESTRICTED = (
    (
        Row("WD w/o BN&ETF/N/A", "WD w/o BN&ETF", baseline=False),
        *rows("WD w/o BN&ETF/Add", "WD w/o BN&ETF/Mult", baseline=False),
    ),
    (
        Row("WD fixed BN&ETF/N/A", "WD fixed BN&ETF", baseline=False),
        *rows("WD fixed BN&ETF/Add", "WD fixed BN&ETF/Mult", baseline=False),
    ),
)
EVERYWHERE = ("network", "counts", "normalisation", "schedule", "seeds", "validation", "flip", "fdr", "tf32")
ADJUSTED = (*EVERYWHERE, "la-search", "multiplicative")
OF_MINI = ("mini-split", "mini-84")

TABLE_1 = Table("1", "Components of methods for long-tailed recognition", (), (), "table1.csv", descriptive=True)
TABLE_2 = Table(
    "2",
    "Fisher's discriminant ratio of features",
    (
        Block(
            "",
            (
                (Row("Naive & CE", "Naive"), Row("Naive & CB", "CB"), Row("WD & CE", "WD"), Row("WD & CB", "WD&CB")),
                rows("WD w/o BN", "WD fixed BN"),
            ),
        ),
    ),
    (C10_LT, C100_LT, MINI_LT),
    "table2.csv",
    metrics=(Metric(("Train",), "FDR", measure=TRAIN, spread=False), Metric(("Test",), "FDR", measure=TEST, spread=False)),
    quirks=(*EVERYWHERE, *OF_MINI, "two-values", "without-bn", "fixed-bn", "cb-beta", "cb-form"),
    stand_ins=(DIGITS_LT,),
)
TABLE_3 = Table(
    "3",
    "Fisher's discriminant ratio of test features before and after a random layer",
    (Block("", (rows("Naive", "WD w/o BN", "WD"),)),),
    TABLE_3_COLUMNS,
    "table3.csv",
    grid="table3",
    metrics=(Metric(("before",), "FDR", measure=BEFORE, spread=False), Metric(("after",), "FDR", measure=AFTER, spread=False)),
    quirks=(*EVERYWHERE, *OF_MINI, "without-bn", "random-layer", "balanced"),
    stand_ins=(MLP_DIGITS,),
    transposed=True,
)
TABLE_4 = Table(
    "4",
    "Fisher's discriminant ratio and accuracy (%) on CIFAR100-LT",
    (Block("", (*BASELINES, *OURS)),),
    (C100_LT,),
    "table4.csv",
    metrics=(*FDR_ALONE, *ACCURACY),
    quirks=(*ADJUSTED, "max-norm", "cb-beta", "cb-form", "etf-bias", "stage-2"),
    stand_ins=(DIGITS_LT,),
)
TABLE_6 = Table(
    "6",
    "Cross-entropy and dot-regression loss under the ETF classifier on CIFAR100-LT",
    (Block("", (rows("WD&ETF", "WD&ETF&DR"),)),),
    (C100_LT,),
    "table6.csv",
    metrics=(*FDR_SPREAD, *ACCURACY),
    quirks=(*EVERYWHERE, "etf-bias"),
    stand_ins=(DIGITS_LT,),
)
TABLE_7 = Table(
    "7",
    "Restricted weight decay with the ETF classifier on CIFAR100-LT",
    (Block("", RESTRICTED),),
    (C100_LT,),
    "table7.csv",
    metrics=(*FDR_ALONE, *ACCURACY),
    quirks=(*ADJUSTED, "without-bn", "fixed-bn", "etf-bias"),
)
TABLE_8 = Table(
    "8",
    "Fisher's discriminant ratio and accuracy (%) on CIFAR10-LT",
    (Block("", (*BASELINES, *OURS, *RESTRICTED)),),
    (C10_LT,),
    "table8.csv",
    metrics=(*FDR_SPREAD, *ACCURACY),
    quirks=(*ADJUSTED, "two-values", "zeta", "max-norm", "cb-beta", "cb-form", "without-bn", "fixed-bn", "etf-bias", "stage-2"),
    stand_ins=(DIGITS_LT,),
)
TABLE_9 = Table(
    "9",
    "Fisher's discriminant ratio and accuracy (%) on mini-ImageNet-LT",
    (Block("", (*BASELINES, *OURS, *RESTRICTED)),),
    (MINI_LT,),
    "table9.csv",
    metrics=(*FDR_SPREAD, *ACCURACY),
    quirks=(
        *ADJUSTED,
        *OF_MINI,
        "max-norm",
        "cb-beta",
        "cb-form",
        "without-bn",
        "fixed-bn",
        "etf-bias",
        "stage-2",
    ),
)
TABLE_10 = Table(
    "10",
    "Fisher's discriminant ratio and accuracy (%) on CIFAR100-LT with ResNeXt50",
    (Block("", (*BASELINES, *OURS)),),
    (C100_RESNEXT,),
    "table10.csv",
    metrics=(*FDR_SPREAD, *ACCURACY),
    quirks=(*ADJUSTED[1:], "max-norm", "cb-beta", "cb-form", "etf-bias", "stage-2"),
)
IN_TEXT = Table(
    "text",
    "Batch norm before the classifier (Sec. 4.3)",
    (Block("", (rows("Naive", "WD"),)),),
    (IN_TEXT_COLUMN,),
    "text_numbers.csv",
    grid="table3",
    metrics=(
        Metric((), "mean of BN scale", measure=("separation", "batch_norm", "top", "scale_mean"), spread=False),
        Metric((), "variance of BN shift", measure=("separation", "batch_norm", "top", "shift_variance"), spread=False),
    ),
    quirks=("network", "counts", "normalisation", "schedule", "seeds", "validation", "tf32"),
    transposed=True,
)

# --- figures: where they leave something open, `unknown` says so ------------------------------------------------------

FOUR = {"Naive": "Naive & CE", "CB": "Naive & CB", "WD": "WD & CE", "WD&CB": "WD & CB"}  # the first rows of Table 2
COSINES = {
    column.name: tuple(
        Panel("pairs", column, (method,), f"{{data}}, {label}", "mean cosine", table="2",
              measure=("separation", "cosine", "matrix"), labels=(label,))
        for method, label in FOUR.items()
    )
    for column in (C10_LT, C100_LT, MINI_LT)
}  # fmt: skip
NORMS = {
    column.name: Panel("classes", column, tuple(FOUR), "{data}", "mean feature norm", table="2",
                       measure=("separation", "feature_norm", "train", "mean_of_norms"), labels=tuple(FOUR.values()))
    for column in (C10_LT, C100_LT, MINI_LT)
}  # fmt: skip
FORGETTING = tuple(
    Panel("classes", column, tuple(FOUR), "{data}", "forgetting score", table="2", measure=("forgetting", "score"),
          labels=tuple(FOUR.values()))
    for column in (C10_LT, C100_LT)
)  # fmt: skip
STEPS = tuple(
    Panel("steps", column, tuple(FIGURE_2), "{data}", "FDR of ReLU of output", grid="figure2", measure=("relu_fdr", "trained"))
    for column in TABLE_3_COLUMNS[6:9]
)
RATIOS = tuple(
    Panel("classes", column, tuple(FIGURE_6), "{data}", "norm / norm of the first class", grid="figure6",
          measure=("separation", "classifier_norm", "ratio"))
    for column in (C10_LT, C100_LT, MINI_LT)
)  # fmt: skip
CURVES_UNKNOWN = "Which methods the published panels compare is not known here: those of its Fig. 1 are drawn."
FIGURES = (
    Figure("1", "Cosine of training features of each pair of classes", (*COSINES[C10_LT.name], *COSINES[C100_LT.name]), 4,
           "The code draws the cosines of one run; here they are the mean over seeds.", stand_in=DIGITS_LT),
    Figure("2", "FDR inside perceptrons, step by step", STEPS, 3,
           "Which perceptrons are shown is not known here: all three of Table 3 are drawn.", ("relu-fdr", "without-shift"),
           MLP_DIGITS),
    Figure("3", "Norm of training features, class by class", (NORMS[C10_LT.name], NORMS[C100_LT.name]), 2, CURVES_UNKNOWN,
           ("feature-norm",), DIGITS_LT),
    Figure("4", "Forgetting score of training images, class by class", FORGETTING, 2, CURVES_UNKNOWN, stand_in=DIGITS_LT),
    Figure("5", "Norms and cosines of training features on mini-ImageNet-LT", (NORMS[MINI_LT.name], *COSINES[MINI_LT.name]), 5,
           CURVES_UNKNOWN, ("feature-norm", "mini-split"), DIGITS_LT),
    Figure("6", "Norm of class vectors after the second stage, over that of the first class", RATIOS, 3,
           "The order of the panels is not known here.", ("max-norm",), DIGITS_LT),
)  # fmt: skip

# --- quirks: where paper and code disagree, or neither says -----------------------------------------------------------

CIFARS, MINIS = ("cifar10", "cifar100"), ("mini_imagenet_lt", "mini_imagenet")
VARIANTS = (Variant("max-norm-batch", "class vectors projected after every step, as in Sec. 7.3", {"projection": "batch"}),)
QUIRKS = (
    Quirk(
        "network",
        "Sec. 4.1 calls the network ResNet32; elsewhere and in the code it is ResNet34.",
        "torchvision's ResNet-34 with a 3x3 stem and no max-pool on CIFAR, as in the code.",
        sources=(*CIFARS, *MINIS),
    ),
    Quirk(
        "seeds",
        "Five runs (Sec. 7.5.3); which seeds is not stated.",
        "Seeds 0 to 4; spread is the population's, as in the code.",
    ),
    Quirk(
        "validation",
        "The code keeps the epoch of best mean per-class accuracy on validation images (20 a class of CIFAR, 100 of "
        "mini-ImageNet-LT, 10,000 of MNIST) and evaluates that one.",
        "The same; 'as published' looks at no test image. Ties go to the earlier epoch.",
    ),
    Quirk(
        "counts",
        "N_1 is 4980 and 480, counts are rounded; the first N_k images of a class train, the next 20 validate (code).",
        "The same. The other papers here take 5000 and 500 and truncate.",
        sources=CIFARS,
    ),
    Quirk("normalisation", "CIFAR-10 and CIFAR-100 are normalised by other deviations (code).", "Code.", sources=CIFARS),
    Quirk(
        "schedule",
        "The paper says cosine; the code steps it before each epoch, so the first has a little less than the full learning "
        "rate and the last has none.",
        "Code.",
    ),
    Quirk(
        "fdr",
        "The notation has the mean of class means, the code the mean of all samples; no formula is printed. Training features "
        "come from the loader with its random augmentation.",
        "Code: sample mean, one random draw. Rows of one network share it, so their training numbers are equal here.",
    ),
    Quirk(
        "feature-norm",
        "Fig. 3 shows the norm of the mean feature by its caption, the mean of norms by the code.",
        "Both; the mean of norms where one is needed.",
    ),
    Quirk(
        "cb-beta", "CB has beta 1 in the theory and 0.9999 in the experiments.", "0.9999 in training, 1 in the theory's checks."
    ),
    Quirk(
        "cb-form",
        "The code divides the weighted cross-entropy by the batch size; the ancestor's CB is binary cross-entropy on softmax.",
        "The code's form.",
    ),
    Quirk(
        "two-values",
        "Discriminant ratios of WD on CIFAR10-LT are printed as 2.97e3 (train) and 4.21e1 (test) in Table 8, and as 2.60e3 and "
        "3.89e1 in Table 2, though nothing says that the runs differ.",
        "One set of runs stands beside both; it need not match both.",
        sources=("cifar10",),
    ),
    Quirk("zeta", "Feature regularisation on CIFAR10-LT: 0.02 in the paper, 0.01 in a released file.", "0.02."),
    Quirk(
        "max-norm",
        "Class vectors are projected after each batch by Sec. 7.3, once an epoch by both released codes; the paper writes one "
        "bound for each class, the code has one for all.",
        "Once an epoch, one bound: the smallest norm of the classifier as handed over plus a tenth of the way to the largest.",
        "max-norm-batch",
    ),
    Quirk(
        "stage-2",
        "The code leaves the network in training mode in stage 2: batch statistics are used and running ones move on.",
        "The same, so features and FDR of WB may differ a little from those of WD.",
    ),
    Quirk(
        "etf-bias",
        "The code trains and decays a bias beside the fixed ETF vectors; the paper does not mention it.",
        "The same; the logits of dot regression have it, too.",
    ),
    Quirk(
        "la-search",
        "How tau and gamma were searched, and whether for each seed, is not stated; the released values are one a data set.",
        "One value for a row and column, by mean accuracy on validation over the seeds; ties to the smaller.",
    ),
    Quirk(
        "multiplicative",
        "A released gamma (1.6 on CIFAR10-LT) lies outside the paper's grid; the code scales the bias too.",
        "The paper's grid; class vectors to length 1, then logits with their bias times prior^(-gamma).",
    ),
    Quirk(
        "without-bn",
        "'WD w/o BN' decays convolutions alone by Sec. 4.3, convolutions and linear layers in the code.",
        "Code; the ETF head's bias is then not decayed.",
    ),
    Quirk(
        "fixed-bn",
        "The constant of 'WD fixed BN' is chosen on validation from 0.01 to 0.20 and printed nowhere. By a match of names the "
        "code also leaves the three 1x1 projections untrained.",
        "All 20 constants, one a row and column by mean validation accuracy before any adjustment; projections are trained.",
    ),
    Quirk(
        "without-shift",
        "'WD w/o shift' of Fig. 2 has no switch of its own in the code.",
        "Decay on everything but the shifts of batch norm, which are trained.",
    ),
    Quirk(
        "tf32",
        "Trained on A100s with torch 1.10.1, which by default rounds the factors of matrix products and convolutions to "
        "TensorFloat-32 there; nothing at hand says whether that was turned off.",
        "32-bit floats on a CPU; on a GPU today's default, TensorFloat-32 in convolutions alone. --precision tf32 has both.",
    ),
    Quirk("random-layer", "The number of random layers behind Table 3 is not stated.", "One, with ReLU, for every network."),
    Quirk(
        "balanced",
        "Table 3 says nothing of its balanced sets.",
        "The same code without imbalance: 4980, 480 and 500 a class; MNIST as it is.",
    ),
    Quirk(
        "mini-split",
        "The seed of the mini-ImageNet-LT split is unknown, its scan of folders is not sorted, and for ten classes training, "
        "validation and test photographs are drawn apart, so they can overlap.",
        "Seed 0 on sorted names; the overlap is kept.",
        sources=MINIS,
    ),
    Quirk(
        "mini-84",
        "Photographs are trained at 224 pixels and evaluated by a centre crop of 224 from 256.",
        "The same from full-size photographs. A folder of smaller ones of one size is trained and evaluated at that size, and "
        "is never compared with a published number.",
        sources=MINIS,
    ),
    Quirk(
        "relu-fdr",
        "The samples behind Fig. 2 are not stated.",
        "The first 2,000 validation images, as in a helper of the code.",
    ),
    Quirk("flip", "A mirror-image test helper exists in the code and is never called.", "No test-time augmentation."),
)

# --- claims: what the paper says, or what is plainly read off its tables ----------------------------------------------

AVERAGE, BOTH = ("Accuracy/Average",), ("FDR/Train", "FDR/Test")
MULT_OVER_ADD = tuple(
    (f"{label}/Mult", f"{label}/Add") for label in ("WD", "WD&ETF", "WD&FR&ETF", "WD w/o BN&ETF", "WD fixed BN&ETF")
)
CLAIMS = (
    Claim(
        "wd-raises-fdr",
        "Weight decay raises Fisher's discriminant ratio of training and test features on every data set, with CE and with CB.",
        "Table 2",
        (Above(("2",), (("WD & CE", "Naive & CE"), ("WD & CB", "Naive & CB"))),),
    ),
    Claim(
        "ce-over-cb",
        "Features trained with CE have a higher discriminant ratio than with CB, with and without weight decay.",
        "Table 2",
        (Above(("2",), (("Naive & CE", "Naive & CB"), ("WD & CE", "WD & CB"))),),
    ),
    Claim(
        "bn-decay-matters",
        "Without decay of batch norm the discriminant ratio is lower than with it, but above that without any decay.",
        "Table 2",
        (Above(("2",), (("WD & CE", "WD w/o BN"), ("WD w/o BN", "Naive & CE"))),),
    ),
    Claim(
        "fixed-bn-makes-up",
        "Small fixed scales of batch norm raise the discriminant ratio over that of trained, undecayed ones.",
        "Table 2",
        (Above(("2",), (("WD fixed BN", "WD w/o BN"),)),),
    ),
    Claim(
        "random-layer",
        "A random layer with ReLU raises the discriminant ratio of test features that were trained with weight decay.",
        "Table 3",
        (Above(("3",), (("after", "before"),), by="metric", rows=("WD",)),),
    ),
    Claim(
        "bn-scale",
        "Weight decay lowers the mean scale of the last batch norm.",
        "Sec. 4.3",
        (Above(("text",), (("Naive", "WD"),), metrics=("mean of BN scale",)),),
    ),
    Claim(
        "wb-over-wd",
        "The second stage of WB raises average accuracy over WD.",
        "Tables 4, 8, 9 and 10",
        (Above(("4", "8", "9", "10"), (("WB/N/A", "WD/N/A"),), metrics=AVERAGE),),
    ),
    Claim(
        "fr-etf-fdr",
        "ETF classifier and feature regularisation together have a higher discriminant ratio than WD and WB.",
        "Table 4",
        (Above(("4",), over("WD&FR&ETF/N/A", "WD/N/A", "WB/N/A", "WD&ETF/N/A"), metrics=BOTH),),
    ),
    Claim(
        "mult-over-add",
        "Multiplicative logit adjustment is above additive in average accuracy, in every row.",
        "Table 4",
        (Above(("4",), MULT_OVER_ADD[:3], metrics=AVERAGE),),
    ),
    Claim(
        "mult-over-add-elsewhere",
        "Multiplicative logit adjustment is above additive in average accuracy on the other data sets and networks, too.",
        "Tables 7 to 10",
        (
            Above(("7",), MULT_OVER_ADD[3:], metrics=AVERAGE),
            Above(("8", "9"), MULT_OVER_ADD, metrics=AVERAGE),
            Above(("10",), MULT_OVER_ADD[:3], metrics=AVERAGE),
        ),
    ),
    Claim(
        "one-stage-over-wb",
        "One stage is enough: WD&FR&ETF with multiplicative logit adjustment is above both stages of WB in average accuracy.",
        "abstract; Tables 4, 8, 9 and 10",
        (Above(("4", "8", "9", "10"), (("WD&FR&ETF/Mult", "WB/N/A"),), metrics=AVERAGE),),
    ),
    Claim(
        "dr-trades",
        "Dot regression raises the discriminant ratio of training features and lowers that of test features and accuracy.",
        "Table 6",
        (
            Above(("6",), (("WD&ETF&DR", "WD&ETF"),), metrics=("FDR/Train",)),
            Above(("6",), (("WD&ETF", "WD&ETF&DR"),), metrics=("FDR/Test", "Accuracy/Average")),
        ),
    ),
)

# --- what other papers print too --------------------------------------------------------------------------------------

ACROSS = (
    Across(
        "table4.csv",
        {
            "Naive/N/A": "CE",
            "CB/N/A": "CB-CE",
            "WD/N/A": "CE, weight decay 5e-3",
            "WB/N/A": "WB",
            "WD&FR&ETF/Mult": "EWB-FDR",
        },
        {"CIFAR100-LT/Accuracy/Average": "CIFAR-100-LT, ratio 100"},
    ),
    Across("table8.csv", {"Naive/N/A": "CE"}, {"CIFAR10-LT/Accuracy/Average": "CIFAR-10-LT, ratio 100"}),
    Across(
        "ancestor_outputs.csv",
        {
            "naive (no weight decay)": "CE",
            "weight decay 5e-3": "CE, weight decay 5e-3",
            "WD + tau-norm 1.9": "tau-norm, weight decay 5e-3",
            "WD + MaxNorm&WD stage 2": "WB",
        },
        {"CIFAR100-LT/IR=100/All": "CIFAR-100-LT, ratio 100"},
        by="the weight-balancing ancestor",
    ),
)

PAPER = Paper(
    name="wb",
    title="Exploring Weight Balancing on Long-Tailed Recognition Problem",
    citation="Hasegawa, Sato. ICLR 2024. arXiv:2305.16573v1",
    columns=(*COLUMNS, *TABLE_3_COLUMNS, MLP_DIGITS),
    tables=(TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_6, TABLE_7, TABLE_8, TABLE_9, TABLE_10, IN_TEXT),
    grids=GRIDS,
    seeds=SEEDS,
    variants=VARIANTS,
    quirks=QUIRKS,
    measures=("separation", "forgetting", "relu_fdr", "etf_cosine", "second_stage"),
    selects_on="validation",
    default_tables=("2", "3", "4", "6", "7", "8", "9", "10", "text"),
    claims=CLAIMS,
    figures=FIGURES,
    across=ACROSS,
)
