rule evaluate_likelihood:
    input:
        **shards(),
        **truth(),
        model=MODEL_FILES,
        train_summary=ancient("<results>/train/{experiment}/summary.json"),
    output:
        likelihood=report(
            "<results>/evaluate/{experiment}/likelihood.json",
            caption="../report/likelihood.rst",
            category="Evaluation",
            subcategory="{experiment}",
        ),
    log:
        "<logs>/evaluate_likelihood.{experiment}.log",
    benchmark:
        "<benchmarks>/evaluate_likelihood.{experiment}.tsv"
    threads: 4
    resources:
        gpu=gpus,
        mem_mb=memory(8192),
        runtime=240,
    params:
        **key("evaluate_likelihood"),
        options=options("evaluate_likelihood"),
    shell:
        "promptehr evaluate_likelihood {params.options} --log {log:q}"


rule evaluate_fidelity:
    input:
        **synthetic(),
        **records(),
        **vocabulary(),
        **process(),
    output:
        fidelity=report(
            "<results>/evaluate/{experiment}/fidelity.json",
            caption="../report/fidelity.rst",
            category="Evaluation",
            subcategory="{experiment}",
        ),
    log:
        "<logs>/evaluate_fidelity.{experiment}.log",
    benchmark:
        "<benchmarks>/evaluate_fidelity.{experiment}.tsv"
    resources:
        mem_mb=memory(8192),
    params:
        **key("evaluate_fidelity"),
        options=options("evaluate_fidelity"),
    shell:
        "promptehr evaluate_fidelity {params.options} --log {log:q}"


rule evaluate_utility:
    input:
        **synthetic(),
        **records(),
    output:
        utility=report(
            "<results>/evaluate/{experiment}/utility.json",
            caption="../report/utility.rst",
            category="Evaluation",
            subcategory="{experiment}",
        ),
    log:
        "<logs>/evaluate_utility.{experiment}.log",
    benchmark:
        "<benchmarks>/evaluate_utility.{experiment}.tsv"
    resources:
        mem_mb=memory(8192),
    params:
        **key("evaluate_utility"),
        options=options("evaluate_utility"),
    shell:
        "promptehr evaluate_utility {params.options} --log {log:q}"


rule evaluate_privacy:
    input:
        **synthetic(),
        **records(),
    output:
        privacy=report(
            "<results>/evaluate/{experiment}/privacy.json",
            caption="../report/privacy.rst",
            category="Evaluation",
            subcategory="{experiment}",
        ),
    log:
        "<logs>/evaluate_privacy.{experiment}.log",
    benchmark:
        "<benchmarks>/evaluate_privacy.{experiment}.tsv"
    resources:
        mem_mb=memory(8192),
    params:
        **key("evaluate_privacy"),
        options=options("evaluate_privacy"),
    shell:
        "promptehr evaluate_privacy {params.options} --log {log:q}"


rule report:
    input:
        **everything(),
    output:
        html=report(
            "<results>/report/report.html",
            caption="../report/report.rst",
            category="Report",
        ),
        json="<results>/report/report.json",
    log:
        "<logs>/report.log",
    benchmark:
        "<benchmarks>/report.tsv"
    resources:
        mem_mb=memory(8192),
    params:
        **key("report"),
        options=options("report"),
    shell:
        "promptehr report {params.options} --log {log:q}"
