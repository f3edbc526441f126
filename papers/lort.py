"""H. Lu, S. Sun, Y. Xie, L. Zhang, X. Yang, J. Yan: "Rethinking Classifier Re-Training in Long-Tailed Recognition: A Simple
Logits Retargeting Approach", 2024 (arXiv:2403.00250).

Covered: Table 1, the CIFAR100-LT columns of Table 2, Table 3; the runs and Measures behind Figures 1 to 5. What Table 2 quotes
from elsewhere is printed as quoted; its columns on ImageNet-LT and iNaturalist are not replicated.

Cost of Table 1: one backbone of 200 epochs for each seed, then 20 passes over the training images that every second stage with
the plain sampler rides, with all points of its grid, and 20 more for Re-Sampling.

Known gaps: no code was released with this version. Learning rate and weight decay of the second stage, the constants of all
baselines, the weight decay of stage 1 at ratios 50 and 10, the backbones of Table 3 and which of five trials is "best" on what
are printed nowhere; every such choice is ours and stands among the quirks. "Ancestor" is the released code of Alshammari et
al., "Long-Tailed Recognition via Weight Balancing", CVPR 2022, which stage 1 follows by the paper's own words. "Later code" is
that of the paper's later version, "Label Over-Smooth Can Balance", ICLR 2025 (github.com/bilibili/LOS, 50652c0), which has
CIFAR100-LT with LORT alone.
"""

from dataclasses import replace
from typing import Any

from replicate.protocol import (
    BEST_ON_TEST,
    CLASS_BALANCED,
    EVALUATING,
    LDAM,
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
    Drops,
    EffectiveNumber,
    Feed,
    Figure,
    Focal,
    Free,
    Grid,
    LogitsRetargeting,
    LongTailed,
    MaxNorm,
    Method,
    Metric,
    Objective,
    Optimum,
    Panel,
    Paper,
    Quirk,
    Row,
    Sgd,
    SoftmaxBinaryCrossEntropy,
    Stage,
    Table,
    TauNormalisation,
    Variant,
    VectorScaling,
    over,
)

# --- protocol: Sec. 5.1 and App. B ------------------------------------------------------------------------------------

EPOCHS, EPOCHS_SECOND, RATE, MOMENTUM, BATCH = 200, 20, 0.01, 0.9, 64  # quirk epochs
DECAY = 5e-3  # ancestor, ratio 100; quirk decay
DELTA = 0.98  # Sec. 5.1
AUGMENTATION = CropFlip(padding=4)
SEEDS = 5  # best of five trials; quirk best

# Not published: grids of ours (quirks second-stage, constants).
RATES, DECAYS = (0.001, 0.003, 0.01, 0.03, 0.1), (0.0, 5e-4, 5e-3, 5e-2, 1e-1)
SCALES = (8.0, 16.0, 32.0)  # Vanilla Cosine
MARGINS = (0.5, 2.0)  # LDAM: margin of the rarest class
FOCAL_GAMMAS = (0.5, 1.0, 2.0)
BETAS = (0.999, 0.9999)  # Class-Balanced; the ancestor's is the latter
NORM_TAUS = tuple(round(0.1 * step, 1) for step in range(21))  # 0.0, 0.1, ..., 2.0; the ancestor's is 1.9
PRIOR_TAUS = tuple(round(0.25 * step, 2) for step in range(1, 9))  # 0.25, 0.50, ..., 2.00
DELTAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)  # Fig. 4

CIFAR: dict[str, Any] = {
    "epochs": EPOCHS, "second": EPOCHS_SECOND, "delta": DELTA, "hands_over": None,  # quirk hand-over
    "sgd": Sgd(Cosine(RATE, Free("epochs"), stepped_after=True), MOMENTUM, DECAY), "feed": Feed(BATCH, AUGMENTATION),
    "second_feed": Feed(BATCH, AUGMENTATION), "balanced_feed": Feed(BATCH, AUGMENTATION, CLASS_BALANCED),
    # Table 3: what CIFAR100-LT is usually trained with elsewhere, with drops by ten (quirk backbones).
    "switch": 160, "plain_epochs": 200, "plain_feed": Feed(128, AUGMENTATION),
    "plain_sgd": Sgd(Drops(0.1, ((160, 1e-2), (180, 1e-3)), warmup=5, ramp=5), MOMENTUM, 2e-4),
}  # fmt: skip

# --- a stand-in that needs no download: scikit-learn's digits, no part of the paper -----------------------------------

DIGITS: dict[str, Any] = {
    "epochs": 40, "second": 10, "hands_over": None,
    "delta": 0.83,  # targets of 0.253 and 0.083: about 3 to 1, as 0.98 makes them for 100 classes
    "sgd": Sgd(Cosine(0.1, Free("epochs"), stepped_after=True), MOMENTUM, DECAY), "feed": Feed(32, Crop(padding=1)),
    "second_feed": Feed(32, Crop(padding=1)), "balanced_feed": Feed(32, Crop(padding=1), CLASS_BALANCED),
    "switch": 32, "plain_epochs": 40, "plain_feed": Feed(32, Crop(padding=1)),
    "plain_sgd": Sgd(Drops(0.1, ((32, 1e-2), (36, 1e-3)), warmup=3, ramp=3), MOMENTUM, 2e-4),
}  # fmt: skip

# --- methods: Sec. 3.1 and 4.2 ----------------------------------------------------------------------------------------

CE, LINEAR_LDAM, BALANCED_SOFTMAX = CrossEntropy(), LDAM(Free("margin"), scale=1.0), VectorScaling(gamma=0.0, tau=1.0)
CLASS_BALANCED_BCE = Objective(SoftmaxBinaryCrossEntropy(), EffectiveNumber(Free("beta")), mean="batch")  # quirk cb-form
RETARGETED = Objective(LogitsRetargeting(Free("delta")))  # Eq. 13
SECOND_SGD = Sgd(Cosine(Free("rate"), Free("second"), stepped_after=True), MOMENTUM, Free("decay"))  # quirk second-stage


def _second(objective: Objective, sgd: Sgd = SECOND_SGD, feed: str = "second_feed", head: str | None = None) -> Stage:
    return Stage(Free("second"), objective, sgd, Free(feed), trained="head", batch_norm=EVALUATING, head=head)


VANILLA = Method(Stage(Free("epochs"), Objective(CE), Free("sgd"), Free("feed"), hands_over=Free("hands_over")))
METHODS = {  # keys: the row labels of Table 1, then the two that it does not have
    "Vanilla FC": VANILLA,
    "Vanilla Cosine": VANILLA.followed_by(_second(Objective(CE, scale=Free("scale")), head="cosine")),
    "Learnable Weight Scaling": VANILLA.followed_by(_second(Objective(CE), head="scaling")),
    "LDAM Loss": VANILLA.followed_by(_second(Objective(LINEAR_LDAM))),
    "Balanced-Softmax Loss": VANILLA.followed_by(_second(Objective(BALANCED_SOFTMAX))),
    "Re-Sampling": VANILLA.followed_by(_second(Objective(CE), feed="balanced_feed")),
    "Focal Loss": VANILLA.followed_by(_second(Objective(Focal(Free("gamma"))))),
    "Class-Balanced Loss (with BCE loss)": VANILLA.followed_by(_second(CLASS_BALANCED_BCE)),
    "MaxNorm": VANILLA.followed_by(_second(Objective(CE), replace(SECOND_SGD, projection=MaxNorm(0.1, "epoch")))),
    "tau-normalized": VANILLA.adjusted(TauNormalisation(NORM_TAUS)),
    "Post-hoc Logit Adjustment": VANILLA.adjusted(AdditiveAdjustment(PRIOR_TAUS)),
    "CE": VANILLA.followed_by(_second(Objective(CE))),
    "LORT": VANILLA.followed_by(_second(RETARGETED)),
}

# Table 3: four backbones (quirk backbones) under six second stages, which the column supplies.
PLAIN = Method(Stage(Free("plain_epochs"), Objective(CE), Free("plain_sgd"), Free("plain_feed"), hands_over=Free("hands_over")))
DRW, COSINE_SCALE = EffectiveNumber(beta=0.9999), 30.0
MARGINAL = Method(replace(PLAIN.stage, objective=Objective(LDAM(0.5, COSINE_SCALE))), head="cosine")
BACKBONES = {
    "CE": PLAIN.followed_by(Free("then")),
    "CE-DRW": PLAIN.then_from(Free("switch"), weights=DRW).followed_by(Free("then")),
    "LDAM-DRW": MARGINAL.then_from(Free("switch"), weights=DRW).followed_by(Free("then_scaled")),
    "BS": Method(replace(PLAIN.stage, objective=Objective(BALANCED_SOFTMAX))).followed_by(Free("then")),
}
THEN = {  # label of the column: second stage, and the same for the cosine classifier of LDAM-DRW
    "Vanilla": (None, None),
    "CE": (_second(Objective(CE)), _second(Objective(CE, scale=COSINE_SCALE))),
    "Focal": (_second(Objective(Focal(Free("gamma")))), _second(Objective(Focal(Free("gamma")), scale=COSINE_SCALE))),
    "LDAM": (_second(Objective(LINEAR_LDAM)), _second(Objective(LDAM(Free("margin"), COSINE_SCALE)))),
    "BS": (_second(Objective(BALANCED_SOFTMAX)), _second(Objective(BALANCED_SOFTMAX, scale=COSINE_SCALE))),
    "CB-BCE": (_second(CLASS_BALANCED_BCE), _second(replace(CLASS_BALANCED_BCE, scale=COSINE_SCALE))),
    "LORT(ours)": (_second(RETARGETED), _second(replace(RETARGETED, scale=COSINE_SCALE))),
}

# --- data: App. B and ancestor (quirk subset) -------------------------------------------------------------------------

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
GROUPS = {  # more than 100 images, 20 to 100, fewer than 20
    100: {"Many": (0, 35), "Medium": (35, 70), "Few": (70, 100)},
    50: {"Many": (0, 41), "Medium": (41, 82), "Few": (82, 100)},
    10: {"Many": (0, 69), "Medium": (69, 100)},
}
DATA = {
    ratio: LongTailed("cifar100", "exponential", ratio, MEAN, STD, largest=500, subset="first", mirrored=True)
    for ratio in GROUPS
}
DIGITS_DATA = LongTailed("digits", "exponential", 45, (0.3053,), (0.3760,), largest=90, test=60)
DIGITS_GROUPS = {"Many": (0, 4), "Medium": (4, 7), "Few": (7, 10)}

CIFAR_COLUMNS = tuple(
    Column("cifar100-lt", ratio, ("CIFAR100-LT", f"IR={ratio}"), DATA[ratio], "resnet34_3x3", CIFAR, GROUPS[ratio])
    for ratio in GROUPS
)
DIGITS_LT = Column("digits", 45, ("Digits-LT", "IR=45"), DIGITS_DATA, "resnet_digits", DIGITS, DIGITS_GROUPS, stand_in=True)


def _then(column: Column) -> tuple[Column, ...]:
    """Table 3: the column once for each second stage."""
    return tuple(
        replace(
            column,
            path=(*column.path, f"finetune={label}"),
            values={**column.values, "then": stage, "then_scaled": scaled},
            then=label,
        )
        for label, (stage, scaled) in THEN.items()
    )


TABLE_3_COLUMNS, TABLE_3_DIGITS = _then(CIFAR_COLUMNS[0]), _then(DIGITS_LT)
COLUMNS = (*CIFAR_COLUMNS, DIGITS_LT)
TABLE_1_COLUMNS = (CIFAR_COLUMNS[0], DIGITS_LT)

# --- grids ------------------------------------------------------------------------------------------------------------


def _grid(columns: tuple[Column, ...], digits: dict[str, Any], **cifar: Any) -> dict[str, Any]:
    """Values by column: ours for the paper's data, fewer for the stand-in."""
    return {name: {c.name: digits[name] if c.stand_in else values for c in columns} for name, values in cifar.items()}


SEARCHED: dict[str, Any] = {
    "rate": RATES, "decay": DECAYS, "scale": SCALES, "margin": MARGINS, "gamma": FOCAL_GAMMAS, "beta": BETAS,
}  # fmt: skip
FEWER: dict[str, Any] = {
    "rate": (0.01, 0.1), "decay": (0.0, 5e-3), "scale": (16.0,), "margin": (0.5,), "gamma": (1.0,), "beta": (0.9999,),
}  # fmt: skip
LEAST: dict[str, Any] = {**FEWER, "decay": (5e-3,)}
TABLE_3_ALL = (*TABLE_3_COLUMNS, *TABLE_3_DIGITS)
GRIDS = {
    "table": Grid("Table 1", METHODS, TABLE_1_COLUMNS, _grid(TABLE_1_COLUMNS, FEWER, **SEARCHED)),
    "table2": Grid("Table 2", {"LORT": METHODS["LORT"]}, CIFAR_COLUMNS, _grid(CIFAR_COLUMNS, FEWER, **SEARCHED)),
    "table3": Grid("Table 3", BACKBONES, TABLE_3_ALL, _grid(TABLE_3_ALL, LEAST, **SEARCHED)),
    "figure4": Grid(
        "Fig. 4: accuracy over delta", {"LORT": METHODS["LORT"]}, TABLE_1_COLUMNS,
        {**_grid(TABLE_1_COLUMNS, FEWER, **SEARCHED), "delta": DELTAS},
    ),
    "figure5": Grid(
        "Fig. 5: accuracy over learning rate and weight decay",
        {label: METHODS[label] for label in ("Class-Balanced Loss (with BCE loss)", "LORT")},
        TABLE_1_COLUMNS,
        {**SEARCHED, "beta": BETAS[-1]},
    ),
    "later-code": Grid(
        "LORT at the learning rate and weight decay of the later code (quirk second-stage)",
        {"LORT": METHODS["LORT"]}, CIFAR_COLUMNS, {"rate": 5e-4, "decay": 0.0},
    ),
}  # fmt: skip

# --- tables -----------------------------------------------------------------------------------------------------------

KIND = "top1_accuracy_pct"
ACCURACY = (
    Metric(("All",), KIND, spread=False),
    *(Metric((group,), KIND, group, spread=False) for group in ("Many", "Medium", "Few")),
)
SHARED = ("subset", "epochs", "hand-over", "decay", "best", "second-stage", "constants", "start", "batch-norm", "flip")
LORT_ROW = Row("LORT (ours)", "LORT", baseline=False)

TABLE_1 = Table(
    "1",
    "Classifier re-training on the frozen backbone, CIFAR100-LT",
    (
        Block("", (tuple(Row(label, label) for label in tuple(METHODS)[:11]),)),
        Block("added here", ((Row("CE", "CE"), LORT_ROW),), added=True),
    ),
    CIFAR_COLUMNS[:1],
    "table1.csv",
    metrics=ACCURACY,
    quirks=(*SHARED, "cb-form", "max-norm", "scaling", "re-sampling"),
    stand_ins=(DIGITS_LT,),
)
QUOTED = (
    "CE", "Focal", "LDAM-DRW", "cRT", "tau-norm", "CB-CE", "De-confound", "BALMS", "BBN", "LogitAjust", "DisAlign", "LTWB",
    "AREA", "RBL",
)  # fmt: skip
SHOTS = ("Many", "Medium", "Few", "All")
TABLE_2 = Table(
    "2",
    "Top-1 accuracy (%) on CIFAR100-LT, ImageNet-LT and iNaturalist 2018",
    (
        Block(
            "",
            (
                (
                    *(Row(label, None) for label in QUOTED),
                    Row("EWB-FDR", None, elsewhere=("wb", "4", "WD&FR&ETF/Mult", "CIFAR100-LT/Accuracy/Average")),
                    LORT_ROW,
                ),
                tuple(Row(label, None) for label in ("RIDE", "SSD", "PaCo", "OPeN", "BCL")),
            ),
        ),
    ),
    CIFAR_COLUMNS,
    "table2.csv",
    grid="table2",
    metrics=(Metric((), KIND, spread=False),),
    quirks=SHARED,
    beside=tuple((data, shot) for data in ("ImageNet-LT", "iNaturalist2018") for shot in SHOTS),
)
TABLE_3 = Table(
    "3",
    "Second stages on other backbones, CIFAR100-LT, and what they gain over the backbone's own classifier",
    (Block("", (tuple(Row(f"backbone={label}", label) for label in BACKBONES),)),),
    TABLE_3_COLUMNS,
    "table3.csv",
    grid="table3",
    metrics=(Metric((), KIND, spread=False),),
    quirks=("subset", "hand-over", "backbones", "best", "second-stage", "constants", "start", "batch-norm", "flip", "cb-form"),
    stand_ins=TABLE_3_DIGITS,
    gains_over="finetune=Vanilla",
)

# --- figures: where they leave something open, `unknown` says so ------------------------------------------------------

CIFAR_100 = CIFAR_COLUMNS[0]
FIGURES = (
    Figure("1", "Logits of test image 7202 under CE and LORT", (), 1,
           "Logits of one image need the networks themselves, which only a store with checkpoints has.",
           command="replicate measures lort --sample 7202"),
    Figure("2", "Positive and negative logits of Many and Few as normal densities",
           tuple(Panel("normals", CIFAR_100, (method,), f"{{data}}, {method}", "density", table="1", groups=("Many", "Few"))
                 for method in ("CE", "LORT")), 2,
           "The published figure is a schema without numbers; which methods it shows is not known here: CE and LORT are drawn.",
           stand_in=DIGITS_LT),
    Figure("3", "Logits Magnitude, Regularized Standard Deviation and weight norm by groups of classes",
           tuple(Panel(draws, CIFAR_100, tuple(METHODS), f"{{data}}, {title}", quantity, table="1")
                 for draws, title, quantity in (
                     ("magnitude", "Logits Magnitude", "L / 1-norm of L"),
                     ("deviation", "Regularized Standard Deviation", "σ / L"),
                     ("norm", "weight norm", "norm / 1-norm"))), 3,
           "The first panel is as described: ten classes a group, methods by increasing accuracy, which stands in brackets. "
           "The other two are ours; sigma is taken over all test images, which the paper leaves open.", stand_in=DIGITS_LT),
    Figure("4", "Accuracy of LORT over δ",
           (Panel("accuracy", CIFAR_100, ("LORT",), "{data}", "accuracy (%)", grid="figure4", over=("delta",),
                  groups=("", "Many", "Medium", "Few")),), 1,
           "The published values of delta, from 0 to about 0.99, are not printed: here our grid. The paper reports the best of "
           "five trials, this is the mean; learning rate and weight decay are chosen for each delta.", ("second-stage",),
           DIGITS_LT),
    Figure("5", "Accuracy over learning rate and weight decay",
           tuple(Panel("map", CIFAR_100, (method,), f"{{data}}, {title}", "accuracy (%)", grid="figure5",
                       over=("rate", "decay"))
                 for method, title in (("Class-Balanced Loss (with BCE loss)", "Class-Balanced"), ("LORT", "LORT"))), 2,
           "Neither the values on the axes nor the methods beside LORT are stated: our grid, and the best baseline of Table 1.",
           ("second-stage",), DIGITS_LT),
)  # fmt: skip

# --- quirks: where paper and ancestor disagree, or neither says -------------------------------------------------------

FIXED = {"second_feed": Feed(BATCH), "balanced_feed": Feed(BATCH, None, CLASS_BALANCED)}
VARIANTS = (
    Variant(
        "320-epochs",
        "stage 1 of Tables 1 and 2 as in the ancestor's code: 320 epochs, the schedule stepped before each",
        {"epochs": 320, "sgd": Sgd(Cosine(RATE, Free("epochs")), MOMENTUM, DECAY)},
    ),
    Variant(
        "best-backbone",
        "second stages and adjustments start from the epoch of stage 1 that is best on the test set, as in the ancestor's and "
        "the later code, so that no Selection of theirs is free of it",
        {"hands_over": BEST_ON_TEST},
    ),
    Variant("plain-features", "the second stage sees training images without augmentation", FIXED),
)
QUIRKS = (
    Quirk(
        "subset",
        "Data are built as in the ancestor, which truncates the counts of classes and takes the first images of each. "
        "How they are normalised is not stated.",
        "The same, by the ancestor's means and deviations; no validation split. The other papers here draw or count otherwise.",
    ),
    Quirk(
        "epochs",
        "Stage 1 has 200 epochs in App. B and the later code, 320 in the ancestor's. The later code steps the cosine schedule "
        "after each epoch, the ancestor's before.",
        "200 epochs, stepped after each.",
        "320-epochs",
    ),
    Quirk(
        "hand-over",
        "From which epoch of stage 1 the second stage starts is not stated; both codes go on from the one that is best on the "
        "test set.",
        "From the last, which no test image chose; tau-normalisation and post-hoc adjustment are of it, too. Vanilla is read "
        "at its best epoch, so that a gain over it can be below 0; none of the 24 in Table 3 is.",
        "best-backbone",
    ),
    Quirk(
        "decay",
        "Weight decay of stage 1 is given for ratio 100 alone, by the ancestor.",
        "5e-3 at every ratio, as the later code has it.",
    ),
    Quirk(
        "best",
        "Numbers are the best of five trials; on which epoch, and chosen by which images, is not stated. There are no "
        "validation images.",
        "As published: per seed the best epoch of the last stage on the test set, as in the ancestor, then of five seeds the "
        "one that is best over all classes, with its own Many, Medium and Few: in all eleven rows of Table 1 their mean, by "
        "classes, is All to the last digit, so that a row is one trial. The mean of five and the cross-fitted mean stand "
        "below. The ancestor chooses without the mirror image, the later code and we with it.",
    ),
    Quirk(
        "second-stage",
        "Learning rate and weight decay of the second stage are 'adequate', its schedule is not stated. The later code has "
        "momentum 0.9, cosine over 20 epochs, and for LORT by default 5e-4 and no decay.",
        "The same form, in batches of 64 as stage 1; learning rates 0.001, 0.003, 0.01, 0.03 and 0.1 times weight decays 0, "
        "5e-4, 5e-3, 5e-2 and 0.1, one pair a row and column. The later code's point is grid later-code.",
    ),
    Quirk(
        "constants",
        "Constants of the baselines are not stated.",
        "Searched with the above: cosine scale 8, 16, 32; LDAM's largest margin 0.5, 2 (exponent 1/4, a linear classifier, no "
        "scale); focal gamma 0.5, 1, 2; class-balanced beta 0.999, 0.9999; tau of normalisation 0 to 2 by 0.1, of post-hoc "
        "adjustment 0.25 to 2 by 0.25.",
    ),
    Quirk(
        "start",
        "Whether the classifier starts anew in the second stage is not stated.",
        "From the class vectors and bias of stage 1, as in the ancestor and the later code; the cosine head from the class "
        "vectors.",
    ),
    Quirk(
        "batch-norm",
        "The backbone is frozen; the ancestor's batch norm nevertheless uses and updates batch statistics in its second stage, "
        "and whether images are augmented there is not stated.",
        "Frozen to the letter: batch norm evaluates; images are cropped and flipped at random as in stage 1.",
        "plain-features",
    ),
    Quirk(
        "flip",
        "Left-right flip at test time (App. B).",
        "Logits of an image and its mirror image are averaged, as in the ancestor.",
    ),
    Quirk(
        "cb-form",
        "Class-Balanced is 'applied with BCE loss'.",
        "The ancestor's form: binary cross-entropy of softmax probabilities, mean over images and classes.",
    ),
    Quirk(
        "max-norm",
        "Threshold, how often class vectors are projected, and the loss beside MaxNorm are not stated.",
        "Once an epoch, to the smallest norm plus a tenth of the way to the largest, as in the ancestor; cross-entropy.",
    ),
    Quirk(
        "scaling",
        "Whether class vectors are trained beside the factors of Learnable Weight Scaling is not stated.",
        "Factors alone, from 1; class vectors and bias stay.",
    ),
    Quirk(
        "re-sampling",
        "The row Re-Sampling is identical to Vanilla FC in all four columns; its 'class sampling ratio' is 1/n.",
        "A real class-balanced sampler: an image of a class of n is drawn with weight 1/n, so that classes are shown alike; "
        "the published numbers are suspect.",
    ),
    Quirk(
        "backbones",
        "How the backbones of Table 3 were trained is not stated; 41.59 of CE rules out the weight decay of Table 1.",
        "ResNet-34, 200 epochs of 128-image batches, learning rate 0.1 after 5 epochs of warm-up, divided by 10 after epochs "
        "160 and 180, weight decay 2e-4; DRW from epoch 160; LDAM with a cosine classifier, scale 30, both of which its second "
        "stages keep, and margin 0.5 for the rarest class, which LDAM's own second stage searches.",
    ),
)

# --- claims: what the paper says, or what is plainly read off its tables ----------------------------------------------

CLAIMS = (
    Claim(
        "lort-best-second-stage",
        "LORT is the best second stage on every backbone.",
        "Table 3",
        (Above(("3",), over("finetune=LORT(ours)", *(f"finetune={label}" for label in THEN)), by="column"),),
    ),
    Claim(
        "lort-best-baseline",
        "LORT is the best of the first group of methods over all classes, on every data set.",
        "Table 2",
        (
            Above(
                ("2",),
                over("LORT (ours)", *QUOTED, "EWB-FDR"),
                columns=(
                    "CIFAR100-LT/IR=100",
                    "CIFAR100-LT/IR=50",
                    "CIFAR100-LT/IR=10",
                    "ImageNet-LT/All",
                    "iNaturalist2018/All",
                ),
            ),
        ),
    ),
    Claim(
        "cb-bce-best-baseline",
        "Class-Balanced with BCE is the best of the known ways to re-train a classifier, over all classes and few-shot ones.",
        "Table 1",
        (Above(("1",), over("Class-Balanced Loss (with BCE loss)", *tuple(METHODS)[:11]), metrics=("All", "Few")),),
    ),
    Claim(
        "best-delta",
        "On CIFAR100-LT the best delta of LORT is 0.98.",
        "Sec. 5.1, Fig. 4",
        (Optimum("figure4", "1", "LORT", "cifar100-lt/100", "delta", 0.98),),
    ),
)

# --- what other papers print too --------------------------------------------------------------------------------------

C100 = "CIFAR-100-LT, ratio 100"
ACROSS = (
    Across(
        "table1.csv",
        {"Vanilla FC": "CE, weight decay 5e-3", "tau-normalized": "tau-norm, weight decay 5e-3"},
        {"CIFAR100-LT/IR=100/All": C100},
    ),
    Across(
        "table2.csv",
        {
            **{label: label for label in ("CE", "Focal", "LDAM-DRW", "cRT", "tau-norm", "CB-CE", "De-confound", "BBN")},
            "DisAlign": "DisAlign",
            "LTWB": "WB",
            "EWB-FDR": "EWB-FDR",
        },
        {
            "CIFAR100-LT/IR=100": C100,
            "CIFAR100-LT/IR=10": "CIFAR-100-LT, ratio 10",
            "ImageNet-LT/All": "ImageNet-LT",
            "iNaturalist2018/All": "iNaturalist 2018",
        },
    ),
    Across(
        "table3.csv",
        {"backbone=CE": "CE", "backbone=CE-DRW": "CE-DRW", "backbone=LDAM-DRW": "LDAM-DRW"},
        {"CIFAR100-LT/IR=100/finetune=Vanilla": C100},
    ),
)

PAPER = Paper(
    name="lort",
    title="Rethinking Classifier Re-Training in Long-Tailed Recognition: A Simple Logits Retargeting Approach",
    citation="Lu, Sun, Xie, Zhang, Yang, Yan. 2024. arXiv:2403.00250",
    columns=(*COLUMNS, *TABLE_3_ALL),
    tables=(TABLE_1, TABLE_2, TABLE_3),
    grids=GRIDS,
    seeds=SEEDS,
    variants=VARIANTS,
    quirks=QUIRKS,
    measures=("logits",),
    default_tables=("1", "2", "3"),
    reports="best",
    claims=CLAIMS,
    figures=FIGURES,
    across=ACROSS,
)
