"""Words of German, French, Spanish and English in headers and cells of lists, as far as they can be guessed from."""

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Final

__all__ = ["HEADERS", "LABEL_WORDS", "WORDS", "known_words", "plain", "two_letter_sexes"]


def plain(text: str) -> str:
    """Small letters and digits alone, without accents.

    >>> plain("Pat.-ID"), plain("Herzvergrößerung"), plain("Fecha de nacimiento")
    ('patid', 'herzvergrosserung', 'fechadenacimiento')
    """
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(each for each in letters if each.isalnum())


HEADERS: Final[Mapping[str, frozenset[str]]] = {
    key: frozenset(words.split())
    for key, words in {
        "image": "image imageid imageindex imagename imagepath img file filename filepath path pathtoimage pngpath "
        "jpgpath dicom dicomid dicompath bild bilddatei bildname datei dateiname pfad bildpfad fichier nomfichier "
        "nomdufichier chemin cliche imagen archivo fichero ruta nombrearchivo",
        "image_id": "sopinstanceuid sopuid imageuid sop",
        "patient": "patient patientid patid patientenid patientennummer patientennr patnr pat pid mrn subject "
        "subjectid deidpatientid idpatient patientnumber numeropatient numpatient nip ipp paciente "
        "idpaciente pacienteid nhc nohistoria nhistoria numerohistoria historiaclinica pseudonym pseudonymid personid",
        "study": "accession accessionnumber study studyid studyinstanceuid studyuid exam examid examination "
        "examinationid untersuchung untersuchungsid untersuchungsnummer auftragsnummer fallnummer examen numeroexamen "
        "idexamen estudio idestudio estudioid",
        "view": "view viewposition projection appa projektion aufnahme strahlengang incidence proyeccion",
        "sex": "sex gender patientsex patientgender geschlecht sexe sexo genero genre",
        "age": "age patientage ageyears ageinyears alter alterjahre alterinjahren edad edadanos",
        "birth_date": "birthdate dateofbirth dob born birth patientbirthdate patientbirth geburtsdatum gebdatum gebdat "
        "geburtstag geboren datenaissance datedenaissance naissance fechanacimiento fechadenacimiento nacimiento "
        "fnacimiento",
        "study_date": "studydate examdate examinationdate date acquisitiondate taken datum untersuchungsdatum "
        "aufnahmedatum dateexamen datedelexamen fecha fechaestudio fechaexamen fechadelestudio fechaexploracion "
        "fechadeexploracion fexploracion",
        "split": "split set subset partition fold aufteilung ensemble conjunto particion",
        "findings": "findings finding findinglabels labels label class classname diagnosis diagnoses befund befunde "
        "diagnose diagnosen diagnostic resultat hallazgos hallazgo diagnostico",
        "reader": "reader readerid radid radiologist befunder leser lecteur radiologue lector radiologo",
    }.items()
}
"""Key of the study file -> headers, plain."""

LABEL_WORDS: Final[Mapping[str, frozenset[str]]] = {
    label: frozenset(words.split())
    for label, words in {
        "cardiomegaly": "cardiomegaly enlargedheart heart kardiomegalie herzvergrosserung herz cardiomegalie "
        "cardiomegalia",
        "pleural_effusion": "pleuraleffusion effusion pleuraerguss erguss epanchement epanchementpleural derrame "
        "derramepleural",
        "pneumonia": "pneumonia pneumonie lungenentzundung neumonia",
        "atelectasis": "atelectasis atelektase atelektasen atelectasie atelectasia",
        "healthy": "healthy normal nofinding nofindings gesund keinbefund ohnebefund unauffallig normalbefund sain "
        "sansanomalie sano sinhallazgos",
    }.items()
}
"""Label -> headers of a column of its own, or findings, plain."""

WORDS: Final[Mapping[str, Mapping[str, frozenset[str]]]] = {
    key: {word: frozenset(listed.split()) for word, listed in meanings.items()}
    for key, meanings in {
        "sexes": {
            "female": "f female w weiblich frau femme feminin mujer femenino femenina woman",
            "male": "m male mannlich mann homme masculin hombre masculino varon man",
            "unknown": "unknown unbekannt d divers x u na o other andere inconnu desconocido",
        },
        "views": {
            "PA": "pa posteroanterior",
            "AP": "ap anteroposterior",
            "frontal": "frontal front face",
            "unknown": "unknown unbekannt inconnu desconocido",
        },
        "splits": {
            "train": "train training trainingsset entrainement entrenamiento",
            "val": "val valid validate validation tuning validierung validacion",
            "test": "test testset holdout prueba",
        },
        "words": {
            "yes": "1 10 yes y true ja j wahr oui vrai si verdadero positive positiv positif positivo "
            "present vorhanden",
            "no": "0 00 no n false nein falsch non faux falso negative negativ negatif negativo absent",
            "unknown": "unknown unclear uncertain doubtful fraglich unklar unsicher douteux incertain dudoso incierto "
            "na notassessed nichtbeurteilbar",
        },
    }.items()
}
"""Table of the study file -> word of dpdt -> cells, plain."""
UNCERTAIN: Final = ("-1", "-1.0", "?")
"""Cells of labels that say nothing, with signs that `plain` leaves out."""


def two_letter_sexes(cells: Iterable[str]) -> dict[str, str] | None:
    """What single letters mean beside each other: m is male beside f or w, and mujer beside h or v.

    >>> two_letter_sexes(["M", "F"]), two_letter_sexes(["H", "M"]), two_letter_sexes(["M"])
    (None, {'h': 'male', 'v': 'male', 'm': 'female'}, None)
    """
    return {"h": "male", "v": "male", "m": "female"} if {plain(cell) for cell in cells} & {"h", "v"} else None


def known_words(key: str, cells: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Cells by what they seem to mean, and those of which nothing is known.

    Args:
        key: A table of WORDS.
        cells: As they are written, trimmed, each once.
    """
    listed = list(cells)
    meanings = {cell: word for word, cells_ in WORDS[key].items() for cell in cells_}
    if key == "sexes":
        meanings |= two_letter_sexes(listed) or {}
    found: dict[str, list[str]] = {word: [] for word in WORDS[key]}
    strange = []
    for cell in listed:
        signed = cell.startswith(("-", "+"))
        word = "unknown" if key == "words" and cell in UNCERTAIN else None if signed else meanings.get(plain(cell))
        if word is None:
            strange.append(cell)
        else:
            found[word].append(cell)
    return {word: listed for word, listed in found.items() if listed}, strange
