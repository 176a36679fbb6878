"""What the quickstart questions ask: one `Relation` per fact the World Factbook states.

A relation names where its value lies, how the value is cut, the label its sentence carries in
the passage ("Coastline: 998 km.") and the ways of asking for it. Some templates share a word
with the label, some do not: a purely lexical matcher finds the former, training the latter.
"""

from collections.abc import Callable
from dataclasses import dataclass

from quickstart_values import clause, currency, items, largest_city, partner, quoted, short


@dataclass(frozen=True)
class Relation:
    """One kind of fact: where it is, how it reads, how it is asked for.

    Attributes:
        topic: Section of the passage; the title reads "Country - topic".
        label: Words before the colon in the passage; unique.
        path: Keys into a country's JSON, joined by "|"; "*" is the first key with a text.
        cut: Raw value in, presentable value out; None where it cannot be stated cleanly.
        templates: Questions; "{c}" is the country, with its article.
    """

    topic: str
    label: str
    path: str
    cut: Callable[[str], str | None]
    templates: tuple[str, ...]


GEOGRAPHY, PEOPLE, GOVERNMENT = "Geography", "People and Society", "Government"
ECONOMY, NETWORKS = "Economy", "Transport and Communications"

RELATIONS = (
    Relation(GEOGRAPHY, "Total area", "Geography|Area|total", short, (
        "How large is {c}?",
        "What is the total area of {c}?",
        "How many square kilometers does {c} cover?",
        "What is the size of {c}?",
    )),
    Relation(GEOGRAPHY, "Land boundaries", "Geography|Land boundaries|total", short, (
        "How long are the land boundaries of {c}?",
        "What is the length of {c}'s borders with its neighbors?",
        "How many kilometers of land borders does {c} have?",
    )),
    Relation(GEOGRAPHY, "Coastline", "Geography|Coastline", short, (
        "How long is the coastline of {c}?",
        "What is the length of {c}'s coast?",
        "How many kilometers of seashore does {c} have?",
    )),
    Relation(GEOGRAPHY, "Climate", "Geography|Climate", clause, (
        "What is the climate of {c}?",
        "What kind of weather does {c} have?",
        "How would one describe the climate in {c}?",
    )),
    Relation(GEOGRAPHY, "Terrain", "Geography|Terrain", clause, (
        "What is the terrain of {c} like?",
        "What does the landscape of {c} look like?",
        "What kind of land makes up {c}?",
    )),
    Relation(GEOGRAPHY, "Highest point", "Geography|Elevation|highest point", short, (
        "What is the highest point in {c}?",
        "Which mountain or place is the highest in {c}?",
        "Where does {c} reach its greatest elevation?",
    )),
    Relation(GEOGRAPHY, "Lowest point", "Geography|Elevation|lowest point", short, (
        "What is the lowest point in {c}?",
        "Where is the lowest elevation of {c}?",
        "Which place lies deepest in {c}?",
    )),
    Relation(GEOGRAPHY, "Natural resources", "Geography|Natural resources", items(3), (
        "What are the main natural resources of {c}?",
        "Which raw materials does {c} possess?",
        "What can be mined or harvested from nature in {c}?",
    )),
    Relation(PEOPLE, "Population", "People and Society|Population|total", short, (
        "What is the population of {c}?",
        "How many people live in {c}?",
        "How many inhabitants does {c} have?",
    )),
    Relation(PEOPLE, "Nationality", "People and Society|Nationality|adjective", short, (
        "What is the nationality of people from {c}?",
        "Which adjective describes somebody from {c}?",
        "What do you call a citizen of {c}?",
    )),
    Relation(PEOPLE, "Languages", "People and Society|Languages|Languages", items(3), (
        "Which languages are spoken in {c}?",
        "What do people speak in {c}?",
        "What are the main languages of {c}?",
    )),
    Relation(PEOPLE, "Largest religion", "People and Society|Religions", partner, (
        "What is the largest religion in {c}?",
        "Which faith do most people in {c} follow?",
        "What do most believers in {c} belong to?",
    )),
    Relation(PEOPLE, "Median age", "People and Society|Median age|total", short, (
        "What is the median age in {c}?",
        "How old is the median person in {c}?",
        "Half of the people of {c} are younger than what age?",
    )),
    Relation(PEOPLE, "Birth rate", "People and Society|Birth rate", short, (
        "What is the birth rate in {c}?",
        "How many babies are born per thousand people in {c}?",
        "How high is the birth rate of {c}?",
    )),
    Relation(PEOPLE, "Largest city", "People and Society|Major urban areas - population",
        largest_city, (
        "What is the largest city in {c}?",
        "Which urban area of {c} has the most people?",
        "Where in {c} do the most people live?",
    )),
    Relation(PEOPLE, "Urban share", "People and Society|Urbanization|urban population", short, (
        "What share of the people of {c} lives in cities?",
        "How urban is {c}?",
        "What percentage of {c} is urban?",
    )),
    Relation(PEOPLE, "Life expectancy",
        "People and Society|Life expectancy at birth|total population", short, (
        "What is the life expectancy in {c}?",
        "How long do people in {c} live on average?",
        "How many years can a newborn in {c} expect to live?",
    )),
    Relation(GOVERNMENT, "Official name", "Government|Country name|conventional long form",
        short, (
        "What is the official name of {c}?",
        "What is {c} formally called?",
        "What is the long form of the name of {c}?",
    )),
    Relation(GOVERNMENT, "Government type", "Government|Government type", clause, (
        "What type of government does {c} have?",
        "How is {c} governed?",
        "What is the political system of {c}?",
    )),
    Relation(GOVERNMENT, "Capital", "Government|Capital|name", clause, (
        "What is the capital of {c}?",
        "Which city is the capital of {c}?",
        "Where is the seat of government of {c}?",
    )),
    Relation(GOVERNMENT, "Independence", "Government|Independence", clause, (
        "When did {c} become independent?",
        "What is the date of independence of {c}?",
        "Since when has {c} been a sovereign state?",
    )),
    Relation(GOVERNMENT, "National holiday", "Government|National holiday", clause, (
        "What is the national holiday of {c}?",
        "Which national day does {c} celebrate?",
        "What holiday does the whole of {c} celebrate?",
    )),
    Relation(GOVERNMENT, "National symbol", "Government|National symbol(s)", items(2), (
        "What is the national symbol of {c}?",
        "Which emblem stands for {c}?",
        "What does {c} use as its symbol?",
    )),
    Relation(GOVERNMENT, "National colors", "Government|National color(s)", items(5), (
        "What are the national colors of {c}?",
        "Which colors represent {c}?",
        "What colors does {c} use as a nation?",
    )),
    Relation(GOVERNMENT, "Anthem", "Government|National anthem(s)|title", quoted, (
        "What is the title of the anthem of {c}?",
        "Which song is the national anthem of {c}?",
        "What is sung as the hymn of {c}?",
    )),
    Relation(GOVERNMENT, "Legislature", "Government|Legislative branch|legislature name",
        clause, (
        "What is the legislature of {c} called?",
        "What is the name of {c}'s parliament?",
        "Which assembly makes the laws of {c}?",
    )),
    Relation(ECONOMY, "GDP", "Economy|GDP (official exchange rate)", short, (
        "What is the GDP of {c}?",
        "How big is the economy of {c}?",
        "What is the gross domestic product of {c}?",
    )),
    Relation(ECONOMY, "GDP per capita", "Economy|Real GDP per capita|*", short, (
        "What is the GDP per capita of {c}?",
        "How much does {c} produce per person?",
        "What is the economic output per head in {c}?",
    )),
    Relation(ECONOMY, "Inflation rate", "Economy|Inflation rate (consumer prices)|*", short, (
        "What is the inflation rate in {c}?",
        "How fast do consumer prices rise in {c}?",
        "How high is inflation in {c}?",
    )),
    Relation(ECONOMY, "Unemployment rate", "Economy|Unemployment rate|*", short, (
        "What is the unemployment rate in {c}?",
        "What share of workers in {c} has no job?",
        "How high is unemployment in {c}?",
    )),
    Relation(ECONOMY, "Farm products", "Economy|Agricultural products", items(3), (
        "What are the main farm products of {c}?",
        "What does the agriculture of {c} produce?",
        "What do farmers in {c} grow or raise?",
    )),
    Relation(ECONOMY, "Exports", "Economy|Exports - commodities", items(2), (
        "What are the main exports of {c}?",
        "Which goods does {c} sell abroad?",
        "What does {c} mostly export?",
    )),
    Relation(ECONOMY, "Main export partner", "Economy|Exports - partners", partner, (
        "What is the main export partner of {c}?",
        "Which country buys the most goods from {c}?",
        "Where do most exports of {c} go?",
    )),
    Relation(ECONOMY, "Main import partner", "Economy|Imports - partners", partner, (
        "What is the main import partner of {c}?",
        "From which country does {c} buy the most goods?",
        "Where do most imports of {c} come from?",
    )),
    Relation(ECONOMY, "Currency", "Economy|Exchange rates|Currency", currency, (
        "What is the currency of {c}?",
        "Which money is used in {c}?",
        "What do people in {c} pay with?",
    )),
    Relation(NETWORKS, "Internet country code", "Communications|Internet country code", short, (
        "What is the internet country code of {c}?",
        "What do web addresses in {c} end in?",
        "Which top-level domain belongs to {c}?",
    )),
    Relation(NETWORKS, "Internet users", "Communications|Internet users|percent of population",
        short, (
        "What share of the people of {c} uses the internet?",
        "How many percent of {c} are online?",
        "How common are internet users in {c}?",
    )),
    Relation(NETWORKS, "Mobile phones",
        "Communications|Telephones - mobile cellular|total subscriptions", short, (
        "How many mobile phones are there in {c}?",
        "How many cell phone subscriptions does {c} have?",
        "What is the number of mobile subscribers in {c}?",
    )),
    Relation(NETWORKS, "Airports", "Transportation|Airports", short, (
        "How many airports does {c} have?",
        "What is the number of airports in {c}?",
        "At how many places can planes land in {c}?",
    )),
    Relation(NETWORKS, "Railways", "Transportation|Railways|total", short, (
        "How long are the railways of {c}?",
        "How many kilometers of train tracks does {c} have?",
        "What is the length of the rail network in {c}?",
    )),
)  # fmt: skip
